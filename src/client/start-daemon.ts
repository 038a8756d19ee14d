/**
 * Starting stratad when a command needs it, and waiting until it answers or is gone. Two commands may start one at
 * the same time: the lock of the state root lets one live, and both commands find it.
 */
import { spawn } from 'node:child_process';
import { closeSync, constants, fstatSync, mkdirSync, openSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { StrataError } from '../base/index.ts';
import { DAEMON_MAIN, type DaemonInfo, daemonPaths } from '../daemon/contract.ts';
import { isUnreachable, send } from './transport.ts';

const POLL_MS = 10;
/** One that ends is noticed at once; this is for one that hangs, and not for a machine that is very busy. */
const START_LIMIT_MS = 60_000;
/** A daemon that does not answer a ping in this time hangs. */
const PING_LIMIT_MS = 10_000;

export interface StartOptions {
  root: string;
  /** The daemon's main module; another one in tests. */
  main?: string | undefined;
}

/** The daemon of the root, or null when none listens. Throws DAEMON when it hangs or speaks another API. */
export async function findDaemon(root: string, limitMs = PING_LIMIT_MS): Promise<DaemonInfo | null> {
  try {
    const signal = AbortSignal.timeout(limitMs);
    return (await send(daemonPaths(root).socket, 'ping', {}, { signal })).result;
  } catch (error) {
    if (isUnreachable(error)) return null;
    if (error instanceof StrataError) throw error;
    throw new StrataError('DAEMON', `stratad of ${root} does not answer`, {
      hint: '`strata daemon restart` replaces it',
      cause: error,
    });
  }
}

/** Starts the daemon unless one answers. Throws DAEMON with the end of its log when it does not come up. */
export async function ensureDaemon(options: StartOptions): Promise<DaemonInfo> {
  const found = await findDaemon(options.root);
  return found ?? (await startDaemon(options));
}

/** Starts stratad detached and waits for its first answer. */
export async function startDaemon(options: StartOptions): Promise<DaemonInfo> {
  const { root } = options;
  if (process.getuid?.() !== 0) {
    throw new StrataError('DENIED', 'strata must run as root', { hint: 'use sudo' });
  }
  const child = launch(options);
  const until = performance.now() + START_LIMIT_MS;
  while (performance.now() < until) {
    const info = await findDaemon(root);
    if (info) return info;
    const failure = child.failure();
    if (failure !== null) {
      throw new StrataError('DAEMON', `stratad did not start: ${failure}`, {
        hint: `see ${daemonPaths(root).log}, or run \`strata daemon run\` to watch it`,
      });
    }
    await sleep(POLL_MS);
  }
  throw new StrataError('DAEMON', `stratad did not answer within ${START_LIMIT_MS / 1000} seconds`, {
    hint: `see ${daemonPaths(root).log}`,
  });
}

/** Waits until a process has ended. Returns false after `timeoutMs`. */
export async function waitForExit(pid: number, timeoutMs: number): Promise<boolean> {
  const until = performance.now() + timeoutMs;
  while (lives(pid)) {
    if (performance.now() > until) return false;
    await sleep(POLL_MS);
  }
  return true;
}

function launch({ root, main = DAEMON_MAIN }: StartOptions): { failure(): string | null } {
  const { runDir, log } = daemonPaths(root);
  mkdirSync(runDir, { recursive: true, mode: 0o700 });
  const out = openSync(log, constants.O_WRONLY | constants.O_CREAT | constants.O_APPEND, 0o600);
  const from = fstatSync(out).size;
  try {
    let failure: string | null = null;
    const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', main, '--root', root], {
      detached: true,
      cwd: '/',
      stdio: ['ignore', out, out],
      env: { ...process.env, PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/usr/bin:/sbin:/bin` },
    });
    child.once('error', (error) => {
      failure = error.message;
    });
    child.once('exit', (code, signal) => {
      // Status 0 before it answers: another daemon holds the lock, and will answer.
      if (code !== 0) failure = lastWords(log, from) ?? `it ended with ${signal ?? `status ${code}`}`;
    });
    child.unref();
    return { failure: () => failure };
  } finally {
    closeSync(out);
  }
}

/** What the process that just ended said last: its own words, else the error that ended it. */
function lastWords(file: string, from: number): string | null {
  const lines = readFileSync(file).subarray(from).toString('utf8').trimEnd().split('\n');
  const own = lines.findLast((line) => line.startsWith('stratad: '));
  return own?.slice('stratad: '.length) ?? lines.findLast((line) => /^[A-Za-z]*Error\b/.test(line)) ?? null;
}

function lives(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch {
    return false;
  }
  try {
    // A child of ours that has ended stays in the process table until it is reaped.
    return !/^\d+ \(.*\) Z/.test(readFileSync(`/proc/${pid}/stat`, 'latin1'));
  } catch {
    return false;
  }
}
