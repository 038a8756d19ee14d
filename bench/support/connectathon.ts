/** The nine steps of Connectathon's basic tests, in shape: what they do to a directory, many times. Each gives its time in milliseconds. */
import * as fs from 'node:fs';
import { join } from 'node:path';

export const STEPS = [
  'create',
  'remove',
  'lookup',
  'attributes',
  'write and read',
  'readdir',
  'link and rename',
  'symlink and readlink',
  'statfs',
] as const;
export type Step = (typeof STEPS)[number];

const FILES = 500;
const DIRECTORIES = 20;
const BYTES = 4 << 20;
const chunk = Buffer.alloc(64 << 10, 'x');

/** Runs all steps in the directory `dir`, which is made and is empty at the end. */
export function connectathon(dir: string): Record<Step, number> {
  fs.mkdirSync(dir);
  const times: Partial<Record<Step, number>> = {};
  const timed = (step: Step, work: () => void): void => {
    const began = performance.now();
    work();
    times[step] = (times[step] ?? 0) + performance.now() - began;
  };
  const file = (i: number): string => join(dir, `d${i % DIRECTORIES}`, `f${i}`);
  const each = (count: number, work: (i: number) => void): void => {
    for (let i = 0; i < count; i++) work(i);
  };
  timed('create', () => {
    each(DIRECTORIES, (i) => fs.mkdirSync(join(dir, `d${i}`)));
    each(FILES, (i) => fs.closeSync(fs.openSync(file(i), 'w')));
  });
  timed('lookup', () => each(FILES * 4, (i) => fs.statSync(file(i % FILES))));
  timed('attributes', () =>
    each(FILES, (i) => {
      fs.chmodSync(file(i), 0o400);
      fs.statSync(file(i));
      fs.chmodSync(file(i), 0o644);
    }),
  );
  timed('write and read', () => {
    const fd = fs.openSync(join(dir, 'big'), 'w+');
    for (let at = 0; at < BYTES; at += chunk.length) fs.writeSync(fd, chunk, 0, chunk.length, at);
    for (let at = 0; at < BYTES; at += chunk.length) fs.readSync(fd, chunk, 0, chunk.length, at);
    fs.closeSync(fd);
  });
  timed('readdir', () => each(DIRECTORIES * 10, (i) => fs.readdirSync(join(dir, `d${i % DIRECTORIES}`))));
  timed('link and rename', () =>
    each(FILES, (i) => {
      fs.linkSync(file(i), `${file(i)}.link`);
      fs.renameSync(`${file(i)}.link`, `${file(i)}.new`);
      fs.unlinkSync(`${file(i)}.new`);
    }),
  );
  timed('symlink and readlink', () =>
    each(FILES, (i) => {
      fs.symlinkSync('target', `${file(i)}.s`);
      fs.readlinkSync(`${file(i)}.s`);
      fs.unlinkSync(`${file(i)}.s`);
    }),
  );
  timed('statfs', () => each(FILES * 2, () => fs.statfsSync(dir)));
  timed('remove', () => {
    each(FILES, (i) => fs.unlinkSync(file(i)));
    fs.unlinkSync(join(dir, 'big'));
    each(DIRECTORIES, (i) => fs.rmdirSync(join(dir, `d${i}`)));
  });
  fs.rmdirSync(dir);
  return times as Record<Step, number>;
}
