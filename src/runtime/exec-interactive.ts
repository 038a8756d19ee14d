/**
 * Runs a prepared container with the caller's own standard streams, for the CLI. Signals that the caller gets are passed on. It keeps
 * true: a signal ends the container as it would end the command outside one. The kernel drops signals that the first process of a pid
 * namespace does not handle, so for those the default action is carried out here.
 */
import { spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { exitStatus, startLog, statusWithLog } from './exit-status.ts';

const FORWARDED = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2'] as const;

/** Runs argv (of prepareBundle) to its end; gives the command's exit status, 128 + signal when a signal ended it. */
export function execInteractive(argv: string[], env: Record<string, string> = {}): Promise<number> {
  const bundleDir = bundleOf(argv);
  return new Promise((resolve, reject) => {
    const terminal = usesTerminal(bundleDir);
    const child = spawn(argv[0]!, argv.slice(1), {
      stdio: 'inherit',
      env: { ...process.env, ...env },
      detached: !terminal,
    });
    let ended: NodeJS.Signals | null = null;
    const handlers = FORWARDED.map((signal) => {
      const handler = () => {
        if (child.pid === undefined) return;
        const init = onlyChildOf(child.pid);
        if (init !== null && takesDefaultAction(init, constants.signals[signal])) {
          ended = signal;
          killQuietly(init, 'SIGKILL');
        } else {
          child.kill(signal);
        }
      };
      process.on(signal, handler);
      return { signal, handler };
    });
    const finish = () => {
      for (const { signal, handler } of handlers) process.off(signal, handler);
    };
    child.on('error', (error) => {
      finish();
      reject(error);
    });
    child.on('close', (code, signal) => {
      finish();
      const status = exitStatus(code, signal);
      if (ended !== null && status === 128 + constants.signals.SIGKILL)
        resolve(128 + constants.signals[ended]);
      else {
        const log = startLog(bundleDir);
        if (terminal) {
          // What a short command has left in its terminal when it ends, crun 1.8 writes as a message.
          if (log !== '') process.stdout.write(`${log}\n`);
          const mapped = status === 1 ? statusWithLog(status, bundleDir) : status;
          resolve(mapped === 125 ? status : mapped);
          return;
        }
        if (status !== 0 && log !== '') process.stderr.write(`strata: the container did not start: ${log}\n`);
        resolve(statusWithLog(status, bundleDir));
      }
    });
  });
}

/**
 * With a terminal the child stays in this session, so that it hears of window size changes (the terminal is raw, no key becomes a
 * signal here); without one it gets its own, so that a key press at somebody's terminal reaches it once: through this process.
 * Also tells the container the terminal's present size, which only this process can see.
 */
function usesTerminal(bundleDir: string): boolean {
  const file = join(bundleDir, 'config.json');
  try {
    const config = JSON.parse(readFileSync(file, 'utf8'));
    if (config.process.terminal !== true) return false;
    const { columns, rows } = process.stdout;
    if (columns > 0 && rows > 0) {
      config.process.consoleSize = { width: columns, height: rows };
      writeFileSync(file, JSON.stringify(config));
    }
    return true;
  } catch {
    return false;
  }
}

/** crun's child is the first process of the container. */
function onlyChildOf(pid: number): number | null {
  try {
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
      .trim()
      .split(' ')
      .filter(Boolean);
    return children.length === 1 ? Number(children[0]) : null;
  } catch {
    return null;
  }
}

/** True when the process neither catches nor ignores the signal. */
function takesDefaultAction(pid: number, signal: number): boolean {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    const mask = (name: string) =>
      BigInt(`0x${new RegExp(`^${name}:\\s*([0-9a-f]+)`, 'm').exec(status)?.[1] ?? '0'}`);
    const bit = 1n << BigInt(signal - 1);
    return ((mask('SigCgt') | mask('SigIgn') | mask('SigBlk')) & bit) === 0n;
  } catch {
    return false;
  }
}

function killQuietly(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {}
}

function bundleOf(argv: string[]): string {
  return argv.find((arg) => arg.startsWith('--bundle='))?.slice('--bundle='.length) ?? '/nonexistent';
}
