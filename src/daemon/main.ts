/**
 * The process stratad: `main.ts --root DIR`. Started detached by the client when a command needs it. When another
 * one already serves the root it ends quietly: the two starters raced, and either will do.
 */
import { parseArgs } from 'node:util';
import { asStrataError } from '../base/index.ts';
import { shortenTurns } from '../sys/index.ts';
import { DEFAULT_ROOT } from './contract.ts';
import { REAL_PARTS } from './real-parts.ts';
import { serve } from './serve.ts';

process.title = 'stratad';
// Programs in appliances are not to wait for it.
shortenTurns();
const { values } = parseArgs({ options: { root: { type: 'string', default: DEFAULT_ROOT } } });
try {
  await serve({ root: values.root, parts: REAL_PARTS });
  process.exit(0);
} catch (thrown) {
  const error = asStrataError(thrown);
  if (error.code === 'BUSY') process.exit(0);
  process.stderr.write(`stratad: ${error.message}${error.hint ? `; ${error.hint}` : ''}\n`);
  process.exit(1);
}
