/**
 * A state root of its own for a test, driven through the front door (bin/strata), and wholly removed afterwards: containers, mounts,
 * daemons and files, also when the test failed.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { killDataPlane } from '../../src/fuse/index.ts';

export const project = resolve(import.meta.dirname, '../..');
const bin = join(project, 'bin/strata');

export interface Outcome {
  status: number;
  stdout: string;
  stderr: string;
}

export interface StrataRoot {
  root: string;
  /** Runs `strata ARGS` and gives its outcome whatever the exit status is. */
  run(args: string[], options?: { input?: string; timeoutMs?: number }): Promise<Outcome>;
  /** Runs `strata --json ARGS`; throws with stderr and stdout unless it exits 0. */
  // biome-ignore lint/suspicious/noExplicitAny: the shapes are what the tests assert
  json(...args: string[]): Promise<any>;
  /** Starts `strata ARGS` and leaves it running. */
  start(args: string[]): ChildProcess;
  /** Ends everything of this root and deletes it. */
  remove(): Promise<void>;
}

function pidOf(file: string): number | null {
  try {
    const pid = Number(readFileSync(file, 'utf8').trim());
    return Number.isInteger(pid) && pid > 1 ? pid : null;
  } catch {
    return null;
  }
}

/** Mountpoints below a directory, deepest first. */
export function mountsBelow(dir: string): string[] {
  return readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map((line) => (line.split(' ')[1] ?? '').replace(/\\040/g, ' '))
    .filter((point) => point.startsWith(`${dir}/`))
    .sort((a, b) => b.length - a.length);
}

function execute(
  file: string,
  args: string[],
  options: { input?: string | undefined; timeoutMs: number },
): Promise<Outcome> {
  return new Promise((done) => {
    const child = execFile(
      file,
      args,
      { timeout: options.timeoutMs, maxBuffer: 256 << 20, killSignal: 'SIGKILL' },
      (error, stdout, stderr) => {
        const code = error === null ? 0 : typeof error.code === 'number' ? error.code : 128;
        done({ status: code, stdout, stderr });
      },
    );
    child.stdin?.on('error', () => {});
    child.stdin?.end(options.input ?? '');
  });
}

/** Runs a program of the machine; never throws. */
export function sh(script: string, timeoutMs = 120_000): Promise<Outcome> {
  return execute('/bin/sh', ['-c', script], { timeoutMs });
}

/** `dir`: the state root, instead of a temporary one. */
export function strataRoot(prefix: string, dir?: string): StrataRoot {
  const root = dir ?? mkdtempSync(join(tmpdir(), `strata-${prefix}-`));
  const children = new Set<ChildProcess>();
  const run: StrataRoot['run'] = (args, options = {}) =>
    execute(bin, ['--root', root, ...args], {
      input: options.input,
      timeoutMs: options.timeoutMs ?? 600_000,
    });
  return {
    root,
    run,
    async json(...args) {
      const outcome = await run(['--json', ...args]);
      if (outcome.status !== 0)
        throw new Error(
          `strata ${args.join(' ')} exited ${outcome.status}\n${outcome.stdout}\n${outcome.stderr}`,
        );
      return JSON.parse(outcome.stdout);
    },
    start(args) {
      const child = spawn(bin, ['--root', root, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
      children.add(child);
      return child;
    },
    async remove() {
      for (const child of children) child.kill('SIGTERM');
      await run(['daemon', 'stop', '--force'], { timeoutMs: 20_000 });
      for (const child of children) child.kill('SIGKILL');
      const stratad = pidOf(join(root, 'run/stratad.pid'));
      if (
        stratad !== null &&
        existsSync(`/proc/${stratad}`) &&
        readFileSync(`/proc/${stratad}/cmdline`, 'utf8').includes(root)
      ) {
        process.kill(stratad, 'SIGKILL');
      }
      killDataPlane(root, { keepMounts: false });
      for (const point of mountsBelow(root)) await sh(`umount -l '${point}'`);
      // What was killed may just be ending a write; and a tree may be deeper than Node removes one.
      if (mountsBelow(root).length === 0)
        await sh(`for i in 1 2 3 4 5 6 7 8 9 10; do rm -rf '${root}' && break; sleep 0.2; done`);
    },
  };
}
