/**
 * Writes the references that are made from the code: docs/cli.md from the command records. With --check it writes nothing and fails when a
 * file is stale. Run by `.ci/run` and after every change of a command.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { cliReference } from '../src/cli/reference.ts';

const file = join(import.meta.dirname, '../docs/cli.md');
const text = cliReference();
const before = read(file);
if (before === text) {
  console.log('docs/cli.md: up to date');
} else if (process.argv.includes('--check')) {
  console.error('docs/cli.md: stale; run `node scripts/gen-docs.ts`');
  process.exitCode = 1;
} else {
  writeFileSync(file, text);
  console.log('docs/cli.md: written');
}

function read(path: string): string | null {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return null;
  }
}
