/** The rows of bench/vlfs.ts: what the client does in a mounted tree, in the order in which they must run. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Mounted } from './vlfs-peers.ts';
import { BUSY_DIRECTORY, LARGE_FILE, LARGE_MIB, SHARED_FILE } from './vlfs-tree.ts';

export interface Measured {
  /** Operations a second; for rows of a single thing, times a second. */
  rate: number;
  /** Processor time of client and server for one operation, in microseconds. */
  cpuUs: number;
  /** Of that, the server's. */
  serverUs: number;
}

export interface Row {
  name: string;
  /** 'ops/s', 'MiB/s', or 'ms' for a row of one thing. */
  unit: 'ops/s' | 'MiB/s' | 'ms';
  run(m: Mounted, tools: Tools): Measured;
  /** Rows that must run before it, in the same run. */
  needs?: string[];
  /** Not for peers that see the shared tree as it is, without a copy of their own. */
  changesShared?: boolean;
  /** To be twice as fast as fuse-overlayfs. */
  twice?: boolean;
  /** To be about as fast as the directory itself. */
  native?: boolean;
}

export interface Tools {
  client: string;
  /** For files that are not in a mount. */
  work: string;
  /** Files of the rows create to unlink. */
  files: number;
  postmark: { files: number; transactions: number };
}

const LIMIT_MS = 120_000;

export function clientRow(m: Mounted, tools: Tools, ...args: string[]): Measured {
  const env = m.pid === null ? process.env : { ...process.env, SERVER: String(m.pid) };
  const child = spawnSync(tools.client, args, { encoding: 'utf8', timeout: LIMIT_MS, env });
  if (child.status !== 0) throw new Error(`${args.join(' ')} in ${m.tree}: ${child.error ?? child.stderr}`);
  const { ops, ns, cpu_us, server_us } = JSON.parse(child.stdout) as Record<string, number>;
  return { rate: ops! / (ns! / 1e9), cpuUs: (cpu_us! + server_us!) / ops!, serverUs: server_us! / ops! };
}

function freshDirectory(m: Mounted): string {
  const path = join(m.fresh, 'fresh-files');
  mkdirSync(path, { recursive: true });
  return path;
}

function postmark(m: Mounted, tools: Tools): Measured {
  const { files, transactions } = tools.postmark;
  const location = join(m.fresh, 'postmark');
  mkdirSync(location);
  const commands = join(tools.work, 'postmark.commands');
  writeFileSync(
    commands,
    `set location .\nset number ${files}\nset transactions ${transactions}\nset size 512 10240\nset report terse\nrun\nquit\n`,
  );
  const whole = clientRow(m, tools, 'run', location, 'postmark', commands);
  return {
    rate: whole.rate * transactions,
    cpuUs: whole.cpuUs / transactions,
    serverUs: whole.serverUs / transactions,
  };
}

const CREATE = 'create 1 KiB';

export const ROWS: Row[] = [
  {
    name: 'negative lookup',
    unit: 'ops/s',
    run: (m, t) => clientRow(m, t, 'absent', join(m.tree, BUSY_DIRECTORY), String(2 * t.files), 'absent-'),
  },
  {
    name: 'negative lookup again',
    unit: 'ops/s',
    run: (m, t) => clientRow(m, t, 'absent', join(m.tree, BUSY_DIRECTORY), String(2 * t.files), 'absent-'),
  },
  { name: 'first find', unit: 'ops/s', run: (m, t) => clientRow(m, t, 'find', m.tree) },
  { name: 'second find', unit: 'ops/s', run: (m, t) => clientRow(m, t, 'find', m.tree) },
  {
    name: 'open+read+close, shared files',
    twice: true,
    unit: 'ops/s',
    run: (m, t) => clientRow(m, t, 'read-files', join(m.tree, 'usr'), '2'),
  },
  {
    name: CREATE,
    twice: true,
    unit: 'ops/s',
    run: (m, t) => clientRow(m, t, 'create', freshDirectory(m), String(t.files)),
  },
  {
    name: 'stat',
    unit: 'ops/s',
    needs: [CREATE],
    run: (m, t) => clientRow(m, t, 'stat', freshDirectory(m), String(t.files)),
  },
  {
    name: 'open+read+close, own files',
    twice: true,
    needs: [CREATE],
    unit: 'ops/s',
    run: (m, t) => clientRow(m, t, 'read-files', freshDirectory(m), '2'),
  },
  {
    name: 'rename',
    twice: true,
    needs: [CREATE],
    unit: 'ops/s',
    run: (m, t) => clientRow(m, t, 'rename', freshDirectory(m), String(t.files)),
  },
  {
    name: 'unlink',
    twice: true,
    needs: [CREATE],
    unit: 'ops/s',
    run: (m, t) => clientRow(m, t, 'unlink', freshDirectory(m), String(t.files)),
  },
  { name: 'postmark', unit: 'ops/s', twice: true, run: postmark },
  {
    name: 'sequential read',
    native: true,
    unit: 'MiB/s',
    run: (m, t) => clientRow(m, t, 'sequential', join(m.tree, LARGE_FILE), '64'),
  },
  {
    name: 'random 4 KiB reads',
    native: true,
    unit: 'ops/s',
    run: (m, t) => clientRow(m, t, 'random', join(m.tree, LARGE_FILE), String(400 * t.files)),
  },
  {
    name: 'write 256 MiB',
    native: true,
    unit: 'MiB/s',
    run: (m, t) => clientRow(m, t, 'write', freshDirectory(m), String(LARGE_MIB)),
  },
  {
    name: 'first write to a shared 64 MiB file',
    unit: 'ms',
    changesShared: true,
    run: (m, t) => clientRow(m, t, 'first-write', join(m.tree, SHARED_FILE)),
  },
];
