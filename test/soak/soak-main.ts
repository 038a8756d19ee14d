/** `npm run soak -- [--minutes N] [--cycles N]`: the long run. Prints what it measured; exits 1 when something grows or is not given back. */
import { parseArgs } from 'node:util';
import { runSoak } from './soak.ts';

const { values } = parseArgs({
  options: { minutes: { type: 'string', default: '60' }, cycles: { type: 'string', default: '10000' } },
});
const seconds = Number(values.minutes) * 60;
const cycles = Number(values.cycles);
if (!(seconds > 0) || !(cycles > 0)) {
  process.stderr.write('usage: npm run soak -- [--minutes N] [--cycles N]\n');
  process.exit(2);
}
const ended = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.once(signal, () => {
    process.stderr.write('taking everything away\n');
    ended.abort();
  });
const onProgress = (line: string) => process.stderr.write(`${line}\n`);
const result = await runSoak({ seconds, cycles, onProgress, signal: ended.signal }).catch((error) => {
  if (ended.signal.aborted) process.exit(130);
  throw error;
});
process.stdout.write(`${Math.round(result.seconds)} s, ${result.cycles} mounts and unmounts\n`);
for (const { what, from, to, most, grows } of result.trends) {
  const figures = [from, to, most].map((value) => value.toFixed(0).padStart(6)).join(' ');
  process.stdout.write(`${what.padEnd(24)} ${figures}${grows ? '  GROWS' : ''}\n`);
}
for (const fault of result.faults) process.stdout.write(`${fault}\n`);
process.exitCode = result.faults.length > 0 || result.trends.some(({ grows }) => grows) ? 1 : 0;
