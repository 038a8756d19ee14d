/** Time stamps: nanoseconds, far past and future, what changes them and what does not. */
import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { AT_FDCWD, UTIME_NOW, UTIME_OMIT, utimensat } from '../../../src/sys/index.ts';
import type { Topic } from './behaviour.ts';
import { ok, python, withFile } from './behaviour.ts';

function plant(dir: string): void {
  fs.mkdirSync(join(dir, 'd'));
  fs.writeFileSync(join(dir, 'f'), 'content');
  fs.writeFileSync(join(dir, 'aged'), 'content');
  fs.symlinkSync('f', join(dir, 'link'));
  for (const name of ['aged', 'd'])
    ok(utimensat(AT_FDCWD, join(dir, name), 1_234_567_890, 5, 1_234_567_890, 123_456_789));
  python(
    'import os, sys; os.utime(sys.argv[1], ns=(7 * 10**9, 8 * 10**9 + 9), follow_symlinks=False)',
    join(dir, 'link'),
  );
}

const of = (path: string) => fs.lstatSync(path, { bigint: true });

export const times: Topic = {
  name: 'times',
  plant,
  behaviours: {
    'what was planted, to the nanosecond'(dir) {
      for (const name of ['aged', 'd'])
        assert.equal(of(join(dir, name)).mtimeNs, 1_234_567_890_123_456_789n, name);
      assert.equal(of(join(dir, 'link')).mtimeNs, 8_000_000_009n);
    },
    'any time is set and kept: before 1970, after 2038, after 2106'(dir) {
      for (const name of ['f', 'd']) {
        for (const seconds of [
          0, 1, -1, -2_147_483_647, 2_147_483_647, 2_147_483_648, 4_294_967_296, 15_032_385_534,
        ]) {
          ok(utimensat(AT_FDCWD, join(dir, name), seconds, 1, seconds, 999_999_999));
          assert.equal(
            of(join(dir, name)).mtimeNs,
            BigInt(seconds) * 1_000_000_000n + 999_999_999n,
            `${seconds}`,
          );
          assert.equal(of(join(dir, name)).atimeNs, BigInt(seconds) * 1_000_000_000n + 1n, `${seconds}`);
        }
      }
    },
    'OMIT and NOW'(dir) {
      const path = join(dir, 'aged');
      ok(utimensat(AT_FDCWD, path, 5, 6, 0, UTIME_OMIT));
      assert.deepEqual([of(path).atimeNs, of(path).mtimeNs], [5_000_000_006n, 1_234_567_890_123_456_789n]);
      ok(utimensat(AT_FDCWD, path, 0, UTIME_OMIT, 0, UTIME_NOW));
      assert.equal(of(path).atimeNs, 5_000_000_006n);
      assert.ok(Math.abs(Number(of(path).mtimeMs) - Date.now()) < 60_000);
    },
    'a chmod, a link and a rename change ctime only; a read changes nothing but atime'(dir) {
      const path = join(dir, 'aged');
      let last = of(path).ctimeNs;
      const later = (what: string) => {
        assert.equal(of(path).mtimeNs, 1_234_567_890_123_456_789n, what);
        assert.ok(of(path).ctimeNs > last, what);
        last = of(path).ctimeNs;
      };
      const wait = () => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 6);
      fs.chmodSync(path, 0o640);
      later('chmod');
      wait();
      fs.chownSync(path, 1, 1);
      later('chown');
      wait();
      fs.linkSync(path, join(dir, 'd/second'));
      later('link');
      wait();
      fs.renameSync(path, join(dir, 'd/away'));
      fs.renameSync(join(dir, 'd/away'), path);
      later('rename');
      wait();
      fs.unlinkSync(join(dir, 'd/second'));
      later('unlink of a link');
      fs.readFileSync(path);
      assert.equal(of(path).ctimeNs, last);
    },
    'a write and a truncation change mtime and ctime, at once for everybody'(dir) {
      const path = join(dir, 'aged');
      const age = () => ok(utimensat(AT_FDCWD, path, 1000, 0, 1000, 0));
      const changed = (what: string, fd: number) => {
        assert.ok(of(path).mtimeMs > 1_000_000n, what);
        assert.ok(fs.fstatSync(fd).mtimeMs > 1_000_000, what);
        assert.ok(Math.abs(Number(of(path).ctimeMs) - Date.now()) < 60_000, what);
      };
      withFile(path, 'r+', (fd) => {
        age();
        assert.equal(of(path).mtimeMs, 1_000_000n);
        fs.writeSync(fd, 'x');
        changed('write', fd);
        age();
        fs.ftruncateSync(fd, 2);
        changed('ftruncate', fd);
        age();
        fs.truncateSync(path, 2);
        changed('truncate to the same size', fd);
        age();
        fs.closeSync(fs.openSync(path, 'w'));
        changed('open with O_TRUNC', fd);
        age();
        fs.closeSync(fs.openSync(path, 'w'));
        changed('open of an empty file with O_TRUNC', fd);
      });
    },
    'a new file has the present time, as the clock of the kernel tells it'(dir) {
      const before = BigInt(Date.now()) * 1_000_000n - 20_000_000n;
      for (const make of [
        (path: string) => fs.writeFileSync(path, ''),
        (path: string) => fs.mkdirSync(path),
        (path: string) => fs.symlinkSync('x', path),
      ]) {
        const path = join(dir, 'd/new');
        make(path);
        const stat = of(path);
        for (const t of [stat.atimeNs, stat.mtimeNs, stat.ctimeNs]) {
          assert.ok(t >= before && t <= BigInt(Date.now()) * 1_000_000n + 20_000_000n);
        }
        fs.rmSync(path, { recursive: true });
      }
    },
    'a change of the mode or the owner leaves the other times of a large file alone'(dir) {
      const path = join(dir, 'f');
      fs.truncateSync(path, 400_000);
      ok(utimensat(AT_FDCWD, path, 100, 200, 300, 400));
      fs.chmodSync(path, 0o600);
      fs.chownSync(path, 5, 5);
      fs.linkSync(path, join(dir, 'd/linked'));
      assert.deepEqual([of(path).atimeNs, of(path).mtimeNs], [100_000_000_200n, 300_000_000_400n]);
    },
    'touch -h changes the symlink'(dir) {
      fs.lutimesSync(join(dir, 'link'), 100, 200);
      assert.equal(of(join(dir, 'link')).mtimeMs, 200_000n);
      assert.notEqual(fs.statSync(join(dir, 'f')).mtimeMs, 200_000);
      assert.equal(fs.readlinkSync(join(dir, 'link')), 'f');
    },
  },
};
