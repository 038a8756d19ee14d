/** Any program as a scanner: a line for /bin/sh, which gets the content as standard input and as the file "$1"; 0 clean, 1 infected, else an error. */
import { createHash } from 'node:crypto';
import { nameToText } from '../../base/index.ts';
import type { Outcome, Scanner, ScannerConfig } from '../contract.ts';
import { CONTENT_PATH, runProgram } from './run-program.ts';

/** Its stamp is the line itself: what the program reads beside it is not known, so `--fresh` is for its changes. */
export function commandScanner({ command, timeoutMs }: ScannerConfig): Scanner {
  const line = createHash('sha256').update(command).digest('hex');
  return {
    kind: 'command',
    version: command,
    stamp: `command ${line}`,
    takesBytes: false,
    async scan({ fd }): Promise<Outcome> {
      const end = await runProgram(['/bin/sh', '-c', command, 'strata-scan', CONTENT_PATH], fd, timeoutMs);
      if (end.status === 0) return { kind: 'clean' };
      const said = firstLine(end.stdout) || firstLine(end.stderr);
      if (end.status === 1) return { kind: 'infected', name: said || 'infected' };
      const why = end.status === null ? end.failure : `exit status ${end.status}`;
      return { kind: 'failed', reason: said === '' ? why : `${why}: ${said}` };
    },
  };
}

/** The first line of a program's output, for people. */
export function firstLine(output: string): string {
  return nameToText((output.split('\n').find((line) => line.trim() !== '') ?? '').trim().slice(0, 256));
}
