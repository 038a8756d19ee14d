/**
 * Random operations of all kinds in a directory until it is killed, as fsstress does: `node random-load.ts DIR SEED`. What it makes stays
 * bounded: the directory is emptied when it holds too much.
 */
import * as fs from 'node:fs';
import { join } from 'node:path';

const [, , dir, seed] = process.argv as unknown as [string, string, string, string];
let state = Number(seed) >>> 0 || 1;
/** xorshift32. */
function below(n: number): number {
  state ^= state << 13;
  state ^= state >>> 17;
  state ^= state << 5;
  return (state >>> 0) % n;
}
const name = (): string => join(dir, `d${below(4)}`, `n${below(100)}`);
const data = Buffer.alloc(256 * 1024, 'soak');

const operations: (() => void)[] = [
  () => fs.writeFileSync(name(), data.subarray(0, below(16384))),
  () => fs.appendFileSync(name(), data.subarray(0, below(4096))),
  () => fs.readFileSync(name()),
  () => fs.truncateSync(name(), below(100_000)),
  () => fs.unlinkSync(name()),
  () => fs.unlinkSync(name()),
  () => fs.rmSync(name(), { recursive: true }),
  () => fs.renameSync(name(), name()),
  () => fs.linkSync(name(), name()),
  () => fs.symlinkSync(name(), name()),
  () => fs.mkdirSync(join(name(), `s${below(5)}`), { recursive: true }),
  () => fs.readdirSync(join(dir, `d${below(4)}`), { withFileTypes: true }),
  () => fs.statSync(name()),
  () => fs.chmodSync(name(), 0o600 | below(0o200)),
  () => fs.utimesSync(name(), below(1e9), below(1e9)),
  () => fs.copyFileSync(name(), name()),
  () => {
    const fd = fs.openSync(name(), 'a+');
    try {
      fs.writeSync(fd, data, 0, below(data.length), below(1 << 20));
      if (below(10) === 0) fs.fsyncSync(fd);
    } finally {
      fs.closeSync(fd);
    }
  },
];

for (let i = 0; ; i++) {
  try {
    if (i % 4000 === 0) {
      fs.rmSync(dir, { recursive: true, force: true });
      for (let d = 0; d < 4; d++) fs.mkdirSync(join(dir, `d${d}`), { recursive: true });
    }
    operations[below(operations.length)]!();
  } catch (error) {
    const { code, syscall } = error as NodeJS.ErrnoException;
    // A directory has no second name.
    if (code === 'EPERM' && syscall === 'link') continue;
    // What a random operation may meet on any file system.
    const usual = [
      'ENOENT',
      'EEXIST',
      'EISDIR',
      'ENOTDIR',
      'ENOTEMPTY',
      'EINVAL',
      'ELOOP',
      'EMLINK',
      'ENAMETOOLONG',
    ];
    if (!usual.includes(code ?? '') && !/^ERR_FS/.test(code ?? '')) throw error;
  }
}
