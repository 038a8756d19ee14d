/**
 * The central scan of 1 to 8 appliances with the same tree beside one scan for each of them: the tree in a layer that all share, private copies of some
 * files in each. The scanner is a clamd with one signature (a real one costs more for each content, which is read once here, and once for each
 * appliance there). Rows are interleaved. Usage: npm run bench -- scan [--files N] [--directories N] [--runs N] [--counts 1,2,4,8,100] [--no-write]
 * Writes the section "Central scan" of docs/performance.md. Ends with status 1 when a target is missed.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { isMet, machineLine, median, type Target, targetLines, writeSection } from './support/report.ts';

const { values: options } = parseArgs({
  options: {
    files: { type: 'string', default: '170000' },
    directories: { type: 'string', default: '17000' },
    runs: { type: 'string', default: '1' },
    counts: { type: 'string', default: '1,2,4,8,100' },
    'no-write': { type: 'boolean', default: false },
  },
});
const FILES = Number(options.files);
const DIRECTORIES = Number(options.directories);
const RUNS = Number(options.runs);
const COUNTS = options.counts.split(',').map(Number);
const command = `npm run bench -- scan${process.argv
  .slice(2)
  .map((word) => ` ${word}`)
  .join('')}`;
/** Private files of each appliance, of 4 KiB. */
const OWN = 10;
const work = mkdtempSync(join(process.env['STRATA_BENCH_DIR'] ?? '/var/tmp', 'strata-bench-scan-'));
const root = join(work, 'root');
const bin = resolve(import.meta.dirname, '../bin/strata');
const note = (text: string) => process.stderr.write(`bench: ${text}\n`);

// biome-ignore lint/suspicious/noExplicitAny: the JSON of the command
function strata(...args: string[]): any {
  const out = execFileSync(bin, ['--root', root, '--json', ...args], { maxBuffer: 1 << 28 });
  return JSON.parse(out.toString());
}

function makeTree(): string {
  const tree = join(work, 'tree');
  for (let i = 0; i < FILES; i++) {
    const at = i % DIRECTORIES;
    const dir = join(tree, `d${at % 100}`, `e${at}`);
    if (i < DIRECTORIES) mkdirSync(dir, { recursive: true });
    // Sizes as in a system: most are small.
    writeFileSync(join(dir, `f${i}`), `${i} `.repeat(20 + ((i * 7919) % 900)));
  }
  return tree;
}

async function startClamd(): Promise<ChildProcess> {
  mkdirSync(join(work, 'db'));
  writeFileSync(
    join(work, 'db/own.ndb'),
    `Bench.One:0:*:${Buffer.from('STRATA-BENCH-MALWARE').toString('hex')}\n`,
  );
  const lines = [`LocalSocket ${join(work, 'clamd')}`, `DatabaseDirectory ${join(work, 'db')}`];
  const config = [...lines, 'Foreground yes', 'User root', `TemporaryDirectory ${work}`, 'SelfCheck 0', ''];
  writeFileSync(join(work, 'clamd.conf'), config.join('\n'));
  const clamd = spawn('clamd', ['--config-file', join(work, 'clamd.conf')], { stdio: 'ignore' });
  for (let i = 0; !existsSync(join(work, 'clamd')); i++) {
    if (i > 300) throw new Error('clamd does not start');
    await sleep(100);
  }
  return clamd;
}

interface Run {
  ms: number;
  scanned: number;
  bytes: number;
}

/** `fresh`: nothing is known of before, as at a first scan. */
function scan(names: string[], fresh: boolean): Run {
  const begin = performance.now();
  const flags = ['--socket', join(work, 'clamd'), ...(fresh ? ['--fresh'] : [])];
  const { scanned, bytes_read: bytes } = strata('scan', ...names, ...flags);
  return { ms: performance.now() - begin, scanned, bytes };
}

const clamd = await startClamd();
const targets: Target[] = [];
try {
  note(`making ${FILES} files`);
  const tree = makeTree();
  strata('repo', 'add', 'local', join(work, 'units'));
  strata('layer', 'build', tree, '--repo', 'local', '--name', 'tree', '--version', '1');
  rmSync(tree, { recursive: true, force: true });
  strata('template', 'create', 't', 'tree');
  strata('create', 'a', '--template', 't', '--count', String(Math.max(...COUNTS)));
  const names = Array.from({ length: Math.max(...COUNTS) }, (_, i) => `a-${i + 1}`);
  for (const [i, name] of names.entries())
    for (let k = 0; k < OWN; k++)
      writeFileSync(join(root, 'appliances', name, 'private', `own-${k}`), `${i} ${k} `.repeat(800));
  const central = new Map(COUNTS.map((count) => [count, [] as Run[]]));
  const again = new Map(COUNTS.map((count) => [count, [] as Run[]]));
  /** A scan of one right before each row's. */
  const single = new Map(COUNTS.map((count) => [count, [] as Run[]]));
  for (let run = 0; run < RUNS; run++) {
    for (const count of COUNTS) {
      note(`${count} of ${COUNTS.join(', ')}, run ${run + 1}`);
      single.get(count)!.push(scan([names[0]!], true));
      central.get(count)!.push(scan(names.slice(0, count), true));
      again.get(count)!.push(scan(names.slice(0, count), false));
    }
  }
  const ms = (runs: Run[]) => median(runs.map((one) => one.ms));
  const seconds = (value: number) => `${(value / 1000).toFixed(2)} s`;
  const rows = COUNTS.map((count) => {
    const all = ms(central.get(count)!);
    const each = ms(single.get(count)!) * count;
    const { scanned } = central.get(count)![0]!;
    return `| ${count} | ${seconds(all)} | ${scanned} | ${seconds(each)} | ${(each / all).toFixed(1)} | ${seconds(ms(again.get(count)!))} |`;
  });
  const eight = (ms(single.get(8)!) * 8) / ms(central.get(8)!);
  const hundred = ms(central.get(100)!) / ms(single.get(100)!);
  targets.push(
    { what: '8 appliances: times as fast as 8 scans', value: eight, atLeast: 7 },
    { what: '100 appliances: times as long as one', value: hundred, atMost: 1.1 },
  );
  const lines = [
    `${machineLine()} ${FILES} files in ${DIRECTORIES} directories in one layer, ${OWN} private files in each appliance; clamd with one signature.`,
    'One scan each: a scan of one appliance right before, times their number.',
    '',
    '| appliances | one scan of all | contents scanned | one scan each | times as fast | again, nothing changed |',
    '| ---: | ---: | ---: | ---: | ---: | ---: |',
    ...rows,
    '',
    ...targetLines(targets),
  ];
  console.log(lines.join('\n'));
  if (!options['no-write'])
    writeSection(resolve(import.meta.dirname, '../docs/performance.md'), 'Central scan', command, lines);
} finally {
  clamd.kill('SIGKILL');
  execFileSync(bin, ['--root', root, 'daemon', 'stop', '--force'], { stdio: 'ignore' });
  rmSync(work, { recursive: true, force: true });
}
process.exitCode = targets.every(isMet) ? 0 : 1;
