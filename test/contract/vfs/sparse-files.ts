/** Holes: finding, punching, zeroing, collapsing them, and keeping them when a file is copied up. */
import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { join } from 'node:path';
import {
  FALLOC_FL_KEEP_SIZE,
  FALLOC_FL_PUNCH_HOLE,
  fallocate,
  lseek,
  SEEK_DATA,
  SEEK_HOLE,
} from '../../../src/sys/index.ts';
import type { Topic } from './behaviour.ts';
import { ok, refused, withFile } from './behaviour.ts';

const FALLOC_FL_COLLAPSE_RANGE = 8;
const FALLOC_FL_ZERO_RANGE = 16;
const FALLOC_FL_INSERT_RANGE = 32;
const MIB = 1 << 20;

/** 8 MiB with data at 1 MiB and at 5 MiB, and a hole at the end. */
function plant(dir: string): void {
  withFile(join(dir, 'sparse'), 'w', (fd) => {
    fs.writeSync(fd, Buffer.alloc(65_536, 's'), 0, 65_536, MIB);
    fs.writeSync(fd, Buffer.alloc(65_536, 't'), 0, 65_536, 5 * MIB);
    fs.ftruncateSync(fd, 8 * MIB);
  });
  fs.writeFileSync(join(dir, 'dense'), Buffer.alloc(MIB, 'd'));
}

function extents(fd: number): [number, number][] {
  const found: [number, number][] = [];
  const { size } = fs.fstatSync(fd);
  for (let at = 0; at < size; ) {
    const data = lseek(fd, at, SEEK_DATA);
    if (data < 0) break;
    const hole = ok(lseek(fd, data, SEEK_HOLE));
    found.push([data, hole]);
    at = hole;
  }
  return found;
}

const EXTENTS: [number, number][] = [
  [MIB, MIB + 65_536],
  [5 * MIB, 5 * MIB + 65_536],
];
const kib = (path: string) => (fs.statSync(path).blocks * 512) / 1024;

export const sparseFiles: Topic = {
  name: 'sparse-files',
  plant,
  behaviours: {
    'holes are found, and nothing beyond the end'(dir) {
      withFile(join(dir, 'sparse'), 'r', (fd) => {
        assert.deepEqual(extents(fd), EXTENTS);
        assert.equal(lseek(fd, 0, SEEK_HOLE), 0);
        refused('ENXIO', lseek(fd, 6 * MIB, SEEK_DATA));
        refused('ENXIO', lseek(fd, 8 * MIB, SEEK_HOLE));
        assert.equal(lseek(fd, 7 * MIB, SEEK_HOLE), 7 * MIB);
      });
      withFile(join(dir, 'dense'), 'r', (fd) => assert.equal(lseek(fd, 0, SEEK_HOLE), MIB));
    },
    'a change keeps the holes, and they cost no blocks'(dir) {
      const path = join(dir, 'sparse');
      assert.ok(kib(path) <= 256, `${kib(path)} KiB`);
      withFile(path, 'r+', (fd) => {
        fs.writeSync(fd, 'changed', MIB);
        fs.fsyncSync(fd);
        assert.deepEqual(extents(fd), EXTENTS);
      });
      assert.ok(kib(path) <= 256, `${kib(path)} KiB`);
      const content = fs.readFileSync(path);
      assert.equal(content.length, 8 * MIB);
      assert.equal(content.toString('latin1', MIB - 1, MIB + 8), '\0changeds');
    },
    'punching a hole zeroes and frees'(dir) {
      withFile(join(dir, 'dense'), 'r+', (fd) => {
        ok(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 65_536, 65_536));
        assert.deepEqual(extents(fd), [
          [0, 65_536],
          [131_072, MIB],
        ]);
        ok(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 10, 20));
        assert.equal(fs.fstatSync(fd).size, MIB);
      });
      const content = fs.readFileSync(join(dir, 'dense'));
      assert.equal(content.toString('latin1', 9, 31), `d${'\0'.repeat(20)}d`);
      assert.ok(content.subarray(65_536, 131_072).every((byte) => byte === 0));
      assert.equal(content[131_072], 100);
    },
    'fallocate gives space, with and without a new size'(dir) {
      withFile(join(dir, 'dense'), 'r+', (fd) => {
        ok(fallocate(fd, FALLOC_FL_KEEP_SIZE, MIB, MIB));
        assert.equal(fs.fstatSync(fd).size, MIB);
        assert.ok(fs.fstatSync(fd).blocks * 512 >= 2 * MIB);
        ok(fallocate(fd, 0, 0, 3 * MIB));
        assert.equal(fs.fstatSync(fd).size, 3 * MIB);
        const tail = Buffer.alloc(100, 'x');
        fs.readSync(fd, tail, 0, 100, 2 * MIB);
        assert.ok(tail.every((byte) => byte === 0));
        refused('EINVAL', fallocate(fd, 0, 0, 0));
        refused('ENOTSUP', fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, 4096));
      });
      withFile(join(dir, 'dense'), 'r', (fd) => refused('EBADF', fallocate(fd, 0, 0, 4096)));
    },
    'zeroing a range, with and without a new size'(dir) {
      withFile(join(dir, 'dense'), 'r+', (fd) => {
        ok(fallocate(fd, FALLOC_FL_ZERO_RANGE, 10, 5000));
        const at = Buffer.alloc(5002);
        fs.readSync(fd, at, 0, at.length, 9);
        assert.equal(at.toString('latin1'), `d${'\0'.repeat(5000)}d`);
        ok(fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, MIB - 10, 100));
        assert.equal(fs.fstatSync(fd).size, MIB);
        ok(fallocate(fd, FALLOC_FL_ZERO_RANGE, MIB - 10, 100));
        assert.equal(fs.fstatSync(fd).size, MIB + 90);
      });
    },
    'collapsing and inserting ranges'(dir) {
      withFile(join(dir, 'dense'), 'r+', (fd) => {
        fs.writeSync(fd, 'mark', 131_072);
        ok(fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 65_536, 65_536));
        assert.equal(fs.fstatSync(fd).size, MIB - 65_536);
        const at = Buffer.alloc(4);
        fs.readSync(fd, at, 0, 4, 65_536);
        assert.equal(at.toString(), 'mark');
        ok(fallocate(fd, FALLOC_FL_INSERT_RANGE, 0, 65_536));
        assert.equal(fs.fstatSync(fd).size, MIB);
        fs.readSync(fd, at, 0, 4, 131_072);
        assert.equal(at.toString(), 'mark');
        refused('EINVAL', fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 100, 65_536));
      });
    },
    'growing by truncation makes a hole, a write far behind the end too'(dir) {
      withFile(join(dir, 'dense'), 'r+', (fd) => {
        fs.ftruncateSync(fd, 100);
        fs.ftruncateSync(fd, 64 * MIB);
        fs.writeSync(fd, 'end', 200 * MIB);
        assert.equal(fs.fstatSync(fd).size, 200 * MIB + 3);
        const at = Buffer.alloc(200);
        fs.readSync(fd, at, 0, 200, 0);
        assert.equal(at.toString('latin1'), 'd'.repeat(100) + '\0'.repeat(100));
      });
      assert.ok(kib(join(dir, 'dense')) < 1024);
    },
    'a size of many tebibytes'(dir) {
      const path = join(dir, 'sparse');
      fs.truncateSync(path, 2 ** 43);
      assert.equal(fs.statSync(path).size, 2 ** 43);
      withFile(path, 'r+', (fd) => {
        fs.writeSync(fd, 'far', 2 ** 43 - 3);
        const at = Buffer.alloc(3);
        assert.equal(fs.readSync(fd, at, 0, 3, 2 ** 43 - 3), 3);
        assert.equal(at.toString(), 'far');
      });
      fs.truncateSync(path, 0);
      assert.ok(kib(path) <= 4, 'no data; perhaps a block of attributes');
    },
  },
};
