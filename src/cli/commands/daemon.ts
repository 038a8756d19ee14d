/** `strata daemon start|stop|restart|run`. */
import { readFileSync } from 'node:fs';
import { asStrataError, StrataError } from '../../base/index.ts';
import { createClient, ensureDaemon, findDaemon, startDaemon, waitForExit } from '../../client/index.ts';
import { type DaemonInfo, daemonPaths, type StopResult } from '../../daemon/contract.ts';
import type { CommandSpec, Outcome, Printer } from '../command.ts';
import type { Context } from '../context.ts';
import { flag } from '../words.ts';

/** stratad gives running work a minute; then a little more. */
const EXIT_LIMIT_MS = 75_000;

interface Stopped extends StopResult {
  stopped: true;
}

/** Asks the daemon to end and waits until it has; null when none runs. Throws DAEMON when it does not end. */
async function stopDaemon(
  context: Context,
  request: { force: boolean; keepMounts: boolean },
): Promise<Stopped | null> {
  const client = createClient({ root: context.root, start: false });
  const info = await findDaemon(context.root).catch((error) => {
    // One that hangs, or speaks another API, still obeys signals.
    context.note(asStrataError(error).message);
    return null;
  });
  if (info === null) return await stopBySignal(context, request.force);
  const result = await client.call('stop', request);
  if (!(await waitForExit(info.pid, EXIT_LIMIT_MS))) throw stillRuns(info.pid);
  return { stopped: true, ...result };
}

async function stopBySignal(context: Context, force: boolean): Promise<Stopped | null> {
  const pid = recordedPid(context.root);
  if (pid === null) return null;
  process.kill(pid, 'SIGTERM');
  if (!(await waitForExit(pid, force ? 5_000 : EXIT_LIMIT_MS))) {
    if (!force) throw stillRuns(pid);
    process.kill(pid, 'SIGKILL');
    await waitForExit(pid, 5_000);
  }
  return { stopped: true, pid, unmounted: [], busy: [] };
}

/** The process of the pid file, when it lives and is a stratad of this root. */
function recordedPid(root: string): number | null {
  try {
    const pid = Number(readFileSync(daemonPaths(root).pid, 'utf8'));
    const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
    const ours = readFileSync(`/proc/${pid}/comm`, 'utf8').trim() === 'stratad' || command.includes(root);
    return Number.isInteger(pid) && pid > 1 && ours ? pid : null;
  } catch {
    return null;
  }
}

function stillRuns(pid: number): StrataError {
  return new StrataError('DAEMON', `stratad (pid ${pid}) has not ended`, {
    hint: 'it may still finish long work; `strata daemon stop --force` does not wait',
  });
}

function reportStopped(print: Printer, stopped: Stopped): void {
  for (const dir of stopped.unmounted) print.line(`unmounted ${dir}`);
  for (const dir of stopped.busy) {
    print.line(`${dir} is in use and stays mounted, served by strata-fs; --force unmounts it`);
  }
  print.line(`stratad (pid ${stopped.pid}) has stopped`);
}

function started(info: DaemonInfo, already: boolean): Outcome {
  return {
    json: { started: !already, daemon: info },
    human: (print) =>
      print.line(`stratad ${already ? 'runs already' : 'has started'}: pid ${info.pid}, build ${info.build}`),
  };
}

const force = {
  long: '--force',
  description: 'unmount what is in use, too (lazily), and do not wait long',
} as const;

export const DAEMON_COMMANDS: CommandSpec[] = [
  {
    path: 'daemon start',
    summary: 'Start stratad',
    details: 'Not needed by hand: every command starts it when it is not there.',
    examples: [['strata daemon start', 'and wait until it answers']],
    run: async ({ context: { root } }) => {
      const running = await findDaemon(root);
      return running ? started(running, true) : started(await ensureDaemon({ root }), false);
    },
  },
  {
    path: 'daemon stop',
    summary: 'Stop stratad',
    details:
      'Running work is finished first. Idle mounts are unmounted; busy ones stay, and the data plane goes on serving them.',
    options: [force],
    examples: [
      ['strata daemon stop', 'busy file systems stay'],
      ['strata daemon stop --force', 'nothing stays'],
    ],
    run: async (invocation) => {
      const request = { force: flag(invocation, 'force'), keepMounts: false };
      const stopped = await stopDaemon(invocation.context, request);
      return {
        json: stopped ?? { stopped: false },
        human: (print) => (stopped ? reportStopped(print, stopped) : print.line('no stratad runs')),
      };
    },
  },
  {
    path: 'daemon restart',
    summary: 'Replace stratad and strata-fs by new processes; mounts and what uses them go on',
    examples: [['strata daemon restart', 'after an upgrade of Strata']],
    run: async ({ context }) => {
      // The one that stops has strata-fs replaced.
      await ensureDaemon({ root: context.root });
      await stopDaemon(context, { force: false, keepMounts: true });
      return started(await startDaemon({ root: context.root }), false);
    },
  },
  {
    path: 'daemon run',
    summary: 'Run stratad in the foreground, for systemd',
    examples: [['strata daemon run', 'logs on stderr, ends on SIGTERM']],
    run: async ({ context }) => {
      process.title = 'stratad';
      const { REAL_PARTS, serve } = await import('../../daemon/index.ts');
      await serve({ root: context.root, parts: REAL_PARTS, foreground: true });
      return null;
    },
  },
];
