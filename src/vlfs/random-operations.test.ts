/**
 * Random sequences of operations on a VLFS and, side by side, on a plain directory of the host's file system that holds the same tree: both must
 * answer with the same errno and show the same tree, with link counts, modes and contents. Stability of st_ino, and that a second opening of the
 * same private layer shows the same, are checked too.
 */
import assert from 'node:assert/strict';
import * as nodeFs from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { E, renameat2 } from '../sys/index.ts';
import type { VlfsSpec } from './contract.ts';
import {
  BASE,
  MODES,
  type Mode,
  type Operation,
  onVlfs,
  operation,
  SECOND,
} from './operations.test-support.ts';
import { Client, ErrnoError, makeSandbox, type Sandbox } from './vlfs.test-support.ts';

/** The answer of an operation: its result, or the name of the errno. */
function answer(run: () => unknown): unknown {
  try {
    const value = run();
    return typeof value === 'string' ? value : 'ok';
  } catch (error) {
    if (error instanceof ErrnoError)
      return Object.entries(E).find(([, value]) => value === -error.errno)?.[0];
    const { code } = error as NodeJS.ErrnoException;
    if (code === undefined) throw error;
    return code.slice(1);
  }
}

/** The last component is never followed, as VfsOperations get it after the kernel's walk. */
function onHost(root: string, o: Exclude<Operation, { op: 'remount' }>): unknown {
  const at = join(root, o.path);
  const noFollow = nodeFs.constants.O_NOFOLLOW;
  const use = <T>(flags: number, then: (fd: number) => T): T => {
    const fd = nodeFs.openSync(at, flags | noFollow);
    try {
      return then(fd);
    } finally {
      nodeFs.closeSync(fd);
    }
  };
  switch (o.op) {
    case 'write':
      return use(0o1101, (fd) => void nodeFs.writeSync(fd, `new ${o.path}`));
    case 'append':
      return use(0o2001, (fd) => void nodeFs.writeSync(fd, '+'));
    case 'read':
      return use(0, (fd) => nodeFs.readFileSync(fd, 'latin1'));
    case 'mkdir':
      return nodeFs.mkdirSync(at);
    case 'unlink':
      return nodeFs.unlinkSync(at);
    case 'rmdir':
      return nodeFs.rmdirSync(at);
    case 'chmod':
      return use(nodeFs.lstatSync(at).isDirectory() ? 0o200000 : 0, (fd) => nodeFs.fchmodSync(fd, o.mode));
    case 'truncate':
      return use(1, (fd) => nodeFs.ftruncateSync(fd, o.size));
    case 'rename': {
      const result = renameat2(-100, at, -100, join(root, o.to), o.flags);
      if (result < 0) throw new ErrnoError(result, 'rename');
      return;
    }
    case 'link':
      return nodeFs.linkSync(at, join(root, o.to));
    case 'symlink':
      return nodeFs.symlinkSync(o.path, join(root, o.to));
  }
}

interface Shown {
  kind: string;
  mode: number;
  nlink: number;
}

function hostTree(root: string): Record<string, Shown> {
  const shown: Record<string, Shown> = {};
  const walk = (dir: string): void => {
    for (const entry of nodeFs.readdirSync(join(root, dir)).sort()) {
      const at = dir === '' ? entry : `${dir}/${entry}`;
      const stat = nodeFs.lstatSync(join(root, at));
      const kind = stat.isDirectory()
        ? 'dir'
        : stat.isSymbolicLink()
          ? `-> ${nodeFs.readlinkSync(join(root, at))}`
          : `file ${nodeFs.readFileSync(join(root, at), 'latin1')}`;
      shown[at] = { kind, mode: stat.mode & 0o7777, nlink: stat.isDirectory() ? 0 : stat.nlink };
      if (stat.isDirectory()) walk(at);
    }
  };
  walk('');
  return shown;
}

function vlfsTree(c: Client): Record<string, Shown> {
  return Object.fromEntries(
    Object.entries(c.tree()).map(([at, kind]) => {
      const stat = c.stat(at);
      return [at, { kind, mode: stat.mode & 0o7777, nlink: kind === 'dir' ? 0 : stat.nlink }];
    }),
  );
}

/** d_ino is st_ino, also for what was not looked up before. */
function checkListedNumbers(c: Client, shown: Record<string, Shown>): void {
  for (const dir of ['', ...Object.keys(shown).filter((at) => shown[at]!.kind === 'dir')]) {
    for (const { name: entry, ino } of c.entries(dir)) {
      if (entry === '.') assert.equal(ino, c.stat(dir).ino);
      else if (entry !== '..') assert.equal(ino, c.stat(`${dir}/${entry}`).ino, `${dir}/${entry}`);
    }
  }
}

/** The test's client does not follow symlinks on the way. */
function throughSymlink(root: string, at: string): boolean {
  const parts = at.split('/');
  return parts.some((_, i) => {
    if (i === 0) return false;
    try {
      return nodeFs.lstatSync(join(root, ...parts.slice(0, i))).isSymbolicLink();
    } catch {
      return false;
    }
  });
}

/** The kernel opens symlinks and directories itself, or refuses to: nothing that a VLFS sees. */
function answerable(root: string, o: Exclude<Operation, { op: 'remount' }>): boolean {
  if (throughSymlink(root, o.path) || ('to' in o && throughSymlink(root, o.to))) return false;
  let stat: nodeFs.Stats | undefined;
  try {
    stat = nodeFs.lstatSync(join(root, o.path), { throwIfNoEntry: false });
  } catch {
    return true;
  }
  if (stat === undefined) return true;
  if (o.op === 'chmod') return !stat.isSymbolicLink();
  return ['write', 'append', 'read', 'truncate'].includes(o.op) ? stat.isFile() : true;
}

async function play(box: Sandbox, spec: VlfsSpec, operations: Operation[], mode: Mode): Promise<void> {
  const host = join(box.dir, `host-${spec.name}`);
  nodeFs.mkdirSync(host);
  for (const level of [...spec.stack.levels].reverse()) {
    nodeFs.cpSync(level.treeDir, host, { recursive: true, verbatimSymlinks: true, preserveTimestamps: true });
  }
  // cp does not keep hard links.
  nodeFs.rmSync(join(host, 'e/b'));
  nodeFs.linkSync(join(host, 'e/a'), join(host, 'e/b'));
  nodeFs.rmSync(join(host, 'e/d'));
  nodeFs.linkSync(join(host, 'e/c'), join(host, 'e/d'));
  let c = new Client(spec, mode);
  try {
    assert.deepEqual(vlfsTree(c), hostTree(host));
    for (const [i, o] of operations.entries()) {
      if (o.op === 'remount') {
        c.close();
        c = new Client(spec, mode);
        continue;
      }
      const step = `${i}: ${JSON.stringify(o)}`;
      if (!answerable(host, o)) continue;
      const expected = answer(() => onHost(host, o));
      assert.equal(
        answer(() => onVlfs(c, o)),
        expected,
        step,
      );
      if (i % 5 === 4) assert.deepEqual(vlfsTree(c), hostTree(host), step);
    }
    const final = hostTree(host);
    assert.deepEqual(vlfsTree(c), final, 'at the end');
    checkListedNumbers(c, final);
    const inos = Object.keys(final).map((at) => [at, c.stat(at).ino]);
    c.close();
    c = new Client(spec, mode);
    checkListedNumbers(c, final);
    assert.deepEqual(vlfsTree(c), final, 'opened again');
    assert.deepEqual(
      Object.keys(final).map((at) => [at, c.stat(at).ino]),
      inos,
      'st_ino stays',
    );
    assert.deepEqual(c.faults, []);
  } finally {
    c.close();
  }
}

/** Found once: the old place is deleted by one mark, the names still count at the new one. */
const LINKS_IN_A_MOVED_DIRECTORY: Operation[] = [
  { op: 'write', path: 'l' },
  { op: 'rename', path: 'l', to: 'e', flags: 2 },
  { op: 'unlink', path: 'e' },
  { op: 'write', path: 'a' },
  { op: 'remount' },
  { op: 'append', path: 'l/a' },
];

test('random operations behave as on the host file system', async () => {
  const box = makeSandbox();
  try {
    const levels = [await box.unit('two', '1', SECOND), await box.unit('one', '1', BASE)];
    let run = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.array(operation, { minLength: 5, maxLength: 40 }),
        fc.constantFrom(...MODES),
        async (operations, mode) => {
          await play(box, box.spec(`r${run++}`, levels), operations, mode);
        },
      ),
      {
        numRuns: Number(process.env['STRATA_RANDOM_RUNS'] ?? 60),
        examples: [[LINKS_IN_A_MOVED_DIRECTORY, MODES[0]!]],
      },
    );
  } finally {
    box.remove();
  }
});
