/** Runs stratad until it is told to end: signals, last words in the log, and the end of the process. */
import { asStrataError } from '../base/index.ts';
import { daemonPaths } from './contract.ts';
import { type DaemonParts, runDaemon } from './daemon.ts';
import { openLog } from './log.ts';

export interface ServeOptions {
  root: string;
  parts: DaemonParts;
  foreground?: boolean;
}

/** Resolves when the daemon has stopped. Throws what runDaemon throws. */
export async function serve(options: ServeOptions): Promise<void> {
  const lastWords = openLog({ file: daemonPaths(options.root).log });
  const die = (thrown: unknown) => {
    const error = asStrataError(thrown);
    const stack = thrown instanceof Error ? thrown.stack : error.message;
    lastWords('error', 'stratad crashed', { error: stack });
    process.stderr.write(`stratad: ${stack}\n`);
    process.exit(1);
  };
  process.on('uncaughtException', die);
  process.on('unhandledRejection', die);
  process.on('SIGHUP', () => {});
  const daemon = await runDaemon(options);
  for (const signal of ['SIGTERM', 'SIGINT'] as const)
    process.on(signal, () => void daemon.stop().catch(die));
  await daemon.stopped;
}
