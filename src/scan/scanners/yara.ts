/** The program `yara` with files of rules: a content is infected when a rule matches, and is called after the first that does. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { nameToText, StrataError } from '../../base/index.ts';
import type { Outcome, Scanner, ScannerConfig } from '../contract.ts';
import { firstLine } from './command.ts';
import { CONTENT_PATH, runProgram } from './run-program.ts';

/** Asks yara for its version and reads the rules for the stamp. Throws USAGE without rules, NOT_FOUND without yara. */
export async function yaraScanner({ rules, timeoutMs }: ScannerConfig): Promise<Scanner> {
  if (rules.length === 0) throw new StrataError('USAGE', 'yara needs rules', { hint: 'add --rules FILE' });
  const digest = createHash('sha256');
  for (const file of rules) {
    try {
      digest.update(readFileSync(file)).update('\0');
    } catch (error) {
      throw new StrataError('NOT_FOUND', `the rules ${file} cannot be read: ${(error as Error).message}`);
    }
  }
  const asked = await runProgram(['yara', '--version'], -1, timeoutMs);
  if (asked.status !== 0) {
    throw new StrataError('NOT_FOUND', `yara cannot be run: ${asked.failure || firstLine(asked.stderr)}`, {
      hint: 'apt install yara',
    });
  }
  const version = `YARA ${firstLine(asked.stdout)}`;
  return {
    kind: 'yara',
    version,
    stamp: `yara ${version} ${digest.digest('hex')}`,
    takesBytes: false,
    async scan({ fd }): Promise<Outcome> {
      const argv = ['yara', '--no-warnings', ...rules, CONTENT_PATH];
      const end = await runProgram(argv, fd, timeoutMs);
      const errors = firstLine(end.stderr);
      if (end.status !== 0 || errors !== '')
        return { kind: 'failed', reason: `yara: ${errors || end.failure || `exit status ${end.status}`}` };
      const match = /^(\S+) /.exec(end.stdout);
      return match === null ? { kind: 'clean' } : { kind: 'infected', name: nameToText(match[1]!) };
    },
  };
}
