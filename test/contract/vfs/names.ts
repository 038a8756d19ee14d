/** Names and paths: any bytes but '/' and NUL, 255 of them, paths up to PATH_MAX and trees that are deeper. */
import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { close, mkdirat, O_DIRECTORY, openat, unlinkat } from '../../../src/sys/index.ts';
import type { Topic } from './behaviour.ts';
import { fails, ok, refused } from './behaviour.ts';

/** latin1: one character a byte. */
const ODD = [
  ' ',
  '  spaces  ',
  'new\nline',
  'tab\t',
  '\x01\x02\x1b[31m',
  '\xff\xfe\x80',
  '\xc3\x28',
  '...',
  '.hidden',
  '-rf',
  '*?[a]',
  'quote"\'`$(x)',
  'back\\slash',
  '\xe2\x82\xac',
  'n'.repeat(255),
  '\xff'.repeat(255),
  '.wh.file',
  '.wh..opq',
  '#overlay',
  'constructor',
  '__proto__',
];

const bytes = (dir: string, name: string) =>
  Buffer.concat([Buffer.from(`${dir}/`), Buffer.from(name, 'latin1')]);
const list = (dir: string) => fs.readdirSync(dir, { encoding: 'latin1' as BufferEncoding }).sort();

function plant(dir: string): void {
  fs.mkdirSync(join(dir, 'd'));
  for (const name of ODD) fs.writeFileSync(bytes(join(dir, 'd'), name), name, 'latin1');
}

export const names: Topic = {
  name: 'names',
  plant,
  behaviours: {
    'odd names are listed, opened, changed and deleted'(dir) {
      const d = join(dir, 'd');
      assert.deepEqual(list(d), [...ODD].sort());
      for (const name of ODD) {
        assert.equal(fs.readFileSync(bytes(d, name), 'latin1'), name);
        fs.appendFileSync(bytes(d, name), '!');
        fs.renameSync(bytes(d, name), bytes(dir, `${name.slice(0, 254)}~`));
        fs.linkSync(bytes(dir, `${name.slice(0, 254)}~`), bytes(d, name));
        assert.equal(fs.readFileSync(bytes(d, name), 'latin1'), `${name}!`);
        fs.unlinkSync(bytes(dir, `${name.slice(0, 254)}~`));
      }
      assert.deepEqual(list(d), [...ODD].sort());
      for (const name of ODD) fs.unlinkSync(bytes(d, name));
      assert.deepEqual(list(d), []);
      for (const name of ODD) fs.mkdirSync(bytes(d, name));
      assert.deepEqual(list(d), [...ODD].sort());
      assert.deepEqual(list(dir), ['d']);
      for (const name of ODD) fs.rmdirSync(bytes(d, name));
      fs.rmdirSync(d);
    },
    'names of 256 bytes are too long, everywhere'(dir) {
      const long = join(dir, 'n'.repeat(256));
      fails('ENAMETOOLONG', () => fs.writeFileSync(long, ''));
      fails('ENAMETOOLONG', () => fs.mkdirSync(long));
      fails('ENAMETOOLONG', () => fs.statSync(long));
      fails('ENAMETOOLONG', () => fs.symlinkSync('x', long));
      fails('ENAMETOOLONG', () => fs.renameSync(join(dir, 'd'), long));
      fails('ENAMETOOLONG', () => fs.unlinkSync(long));
    },
    'paths up to PATH_MAX work, longer ones do not, deeper trees do'(dir) {
      let path = dir;
      while (path.length + 101 < 4095) {
        path = join(path, 'p'.repeat(100));
        fs.mkdirSync(path);
      }
      const full = join(path, 'f'.repeat(4095 - path.length - 1));
      if (full.length > path.length + 1) {
        fs.writeFileSync(full, 'deep');
        assert.equal(fs.readFileSync(full, 'utf8'), 'deep');
        fails('ENAMETOOLONG', () => fs.statSync(`${full}x`));
      }
      let fd = ok(openat(-100, path, O_DIRECTORY));
      const fds = [fd];
      for (let i = 0; i < 40; i++) {
        ok(mkdirat(fd, 'q'.repeat(200), 0o755));
        fd = ok(openat(fd, 'q'.repeat(200), O_DIRECTORY));
        fds.push(fd);
      }
      ok(mkdirat(fd, 'bottom', 0o755));
      refused('EEXIST', mkdirat(fd, 'bottom', 0o755));
      ok(unlinkat(fd, 'bottom', 0x200));
      fds.pop();
      ok(close(fd));
      for (const at of fds.reverse()) {
        ok(unlinkat(at, 'q'.repeat(200), 0x200));
        ok(close(at));
      }
    },
    'a trailing slash asks for a directory'(dir) {
      fs.writeFileSync(join(dir, 'f'), '');
      fails('ENOTDIR', () => fs.statSync(`${join(dir, 'f')}/`));
      assert.ok(fs.statSync(`${join(dir, 'd')}/`).isDirectory());
      fails('EISDIR', () => fs.writeFileSync(`${join(dir, 'new')}/`, ''));
      fs.mkdirSync(`${join(dir, 'dir')}/`);
      fails('ENOTDIR', () => fs.unlinkSync(`${join(dir, 'f')}/`));
      fails('EISDIR', () => fs.unlinkSync(join(dir, 'dir')));
      fails('ENOTDIR', () => fs.rmdirSync(join(dir, 'f')));
      fails('EINVAL', () => fs.rmdirSync(`${join(dir, 'dir')}/.`));
      fails('ENOTEMPTY', () => fs.rmdirSync(`${join(dir, 'd')}/..`));
    },
  },
};
