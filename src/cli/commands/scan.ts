/** `strata scan`: malware in a fleet, each content looked at once; the quarantine. */
import { resolve } from 'node:path';
import { StrataError } from '../../base/index.ts';
import type { Request, Result } from '../../daemon/contract.ts';
import type { CommandSpec, Invocation, Outcome, Printer } from '../command.ts';
import { countOf, formatBytes, formatDuration } from '../format.ts';
import { flag, maybe, number, pathOption, text, texts, wordList } from '../words.ts';

type ScannerOptions = Omit<Request<'scanOnOpen'>, 'names' | 'on'>;

/** Exit status when something is infected. */
const INFECTED = 4;
/** Places of one content shown to people. */
const SHOWN = 20;

function report(print: Printer, result: Result<'scan'>): void {
  for (const finding of result.infected) {
    const state = finding.quarantined ? ', in quarantine' : '';
    const was = finding.verdict === 'clean' ? ' (clean now)' : '';
    print.line(`${finding.name}${was}  ${finding.digest}  ${formatBytes(finding.bytes)}${state}`);
    const rows = finding.places
      .slice(0, SHOWN)
      .map(({ appliance, path, layer, shown }) => [`  ${appliance}`, layer, shown ? 'yes' : 'no', path]);
    if (rows.length > 0) print.table(['  APPLIANCE', 'LAYER', 'SHOWN', 'PATH'], rows, '');
    if (finding.place_count > rows.length)
      print.line(`  and ${finding.place_count - rows.length} more places`);
  }
  for (const { holder, path, reason } of result.failed)
    print.line(`not scanned: ${holder} ${path}: ${reason}`);
  for (const { holder, path, reason } of result.skipped) print.line(`left out: ${holder} ${path}: ${reason}`);
  for (const { name, dir } of result.still_shown)
    print.line(`${dir} shows ${name} by the sealed door as before: strata umount ${dir}`);
  const counts = [
    `${result.scanner.version}:`,
    `${countOf(result.files, 'file')} in ${countOf(result.layers, 'layer')} and ${countOf(result.appliances, 'appliance')},`,
    `${result.scanned} scanned, ${result.cached} known,`,
    `${formatBytes(result.bytes_read)} read,`,
    formatDuration(result.elapsed_ms),
  ];
  print.line(counts.join(' '));
  const { infected_count: infected, failed_count: failed, skipped_count: skipped } = result;
  const verdict = [
    infected === 0 ? 'nothing infected' : `${countOf(infected, 'infected content')}`,
    ...(failed > 0 ? [`${countOf(failed, 'file')} could not be scanned`] : []),
    ...(skipped > 0 ? [`${countOf(skipped, 'file')} left out`] : []),
  ];
  print.line(verdict.join(', '));
}

async function scan(invocation: Invocation): Promise<Outcome> {
  const { context } = invocation;
  const names = wordList(invocation, 0);
  const result = await context.call('scan', {
    ...(names.length > 0 ? { names } : {}),
    ...scannerOf(invocation),
    ...(flag(invocation, 'fresh') ? { fresh: true } : {}),
    ...(flag(invocation, 'quarantine') ? { quarantine: true } : {}),
  });
  const status = result.infected_count > 0 ? INFECTED : result.failed_count > 0 ? 1 : 0;
  return { json: result, status, human: (print) => report(print, result) };
}

/** The options that choose a scanner. */
function scannerOf(invocation: Invocation): ScannerOptions {
  const timeout = number(invocation, 'timeout');
  return {
    ...maybe('with', text(invocation, 'with') as 'clamav' | 'yara' | 'command' | undefined),
    ...maybe('socket', pathOption(invocation, 'socket')),
    ...maybe('database', pathOption(invocation, 'database')),
    ...maybe('command', text(invocation, 'command')),
    ...rulesOf(invocation),
    ...maybe('maxBytes', number(invocation, 'maxSize')),
    ...maybe('timeoutMs', timeout === undefined ? undefined : timeout * 1000),
  };
}

function rulesOf(invocation: Invocation): { rules?: string[] } {
  const rules = texts(invocation, 'rules');
  return rules.length === 0 ? {} : { rules: rules.map((file) => resolve(file)) };
}

async function list({ context }: Invocation): Promise<Outcome> {
  const result = await context.call('scanState', {});
  const rows = result.quarantine.map(({ digest, name, scanner, since }) => [digest, name, since, scanner]);
  return {
    json: result,
    human: (print) => {
      print.table(['DIGEST', 'NAME', 'SINCE', 'SCANNER'], rows, 'nothing is in quarantine');
      for (const { name, scanner } of result.on_open) print.line(`${name} is scanned on open: ${scanner}`);
    },
  };
}

async function onOpen(invocation: Invocation, on: boolean): Promise<Outcome> {
  const names = wordList(invocation, 0);
  if (names.length === 0)
    throw new StrataError('USAGE', '--on-open needs the names of appliances', {
      hint: 'strata scan NAME --on-open on',
    });
  const result = await invocation.context.call('scanOnOpen', { names, on, ...scannerOf(invocation) });
  const how = on ? 'is scanned on open' : 'is not scanned on open any more';
  return {
    json: result,
    human: (print) => {
      for (const name of result.names) print.line(`${name} ${how}`);
    },
  };
}

async function release({ context }: Invocation, digest: string): Promise<Outcome> {
  const result = await context.call('quarantineRelease', { digest });
  return { json: result, human: (print) => print.line(`released ${result.released}`) };
}

export const SCAN_COMMAND: CommandSpec = {
  path: 'scan',
  summary: 'Scan appliances for malware, every distinct content once',
  details:
    'Files that layers, clones or private layers share are read once, whatever the number of appliances; a verdict is kept until the content, the scanner or its signatures change. Files are read from the disk, not through mounts. Exits with status 0 when all is clean, 4 when something is infected, 1 when something could not be scanned.',
  args: [
    {
      name: 'NAME',
      description: 'appliances (default: all)',
      kind: 'appliance',
      optional: true,
      variadic: true,
    },
  ],
  options: [
    {
      long: '--with',
      value: 'SCANNER',
      choices: ['clamav', 'yara', 'command'],
      description: 'clamav (clamd; the default), yara or command',
    },
    {
      long: '--socket',
      value: 'PATH',
      kind: 'file',
      description: "clamd's socket (default /run/clamav/clamd.ctl)",
    },
    {
      long: '--database',
      value: 'DIR',
      kind: 'dir',
      description: "signatures of one's own that clamd loads: when they change, old verdicts do not count",
    },
    {
      long: '--rules',
      value: 'FILE',
      kind: 'file',
      repeat: true,
      description: 'rules for yara (repeatable)',
    },
    {
      long: '--command',
      value: 'CMD',
      description:
        'a line for /bin/sh, for each content: on its standard input and in the file "$1"; exit status 0 clean, 1 infected, else an error',
    },
    {
      long: '--max-size',
      value: 'BYTES',
      minimum: 1,
      description: 'leave out larger files (default 1 GiB)',
    },
    {
      long: '--timeout',
      value: 'SECONDS',
      minimum: 1,
      description: 'for one content (default 120)',
    },
    { long: '--fresh', description: 'scan everything again' },
    {
      long: '--quarantine',
      description: 'hide what is infected in every appliance at once: opening it answers EPERM',
    },
    {
      long: '--on-open',
      value: 'on|off',
      choices: ['on', 'off'],
      description:
        'only say whether the named appliances let this scanner judge each content before it is opened for reading: infected answers EPERM, no verdict in time (default 30 s) ETIMEDOUT, content that cannot be judged EIO',
    },
    { long: '--list', description: 'only list what is in quarantine, and what is scanned on open' },
    { long: '--release', value: 'DIGEST', description: 'only show this content again, everywhere' },
  ],
  examples: [
    ['strata scan', 'all appliances, with clamd'],
    ['strata scan web-1 --with yara --rules rules.yar', 'one appliance, with rules for yara'],
    ["strata scan --command '! grep -q EICAR'", 'any program'],
    ['strata scan --quarantine', 'and hide what is infected'],
    ['strata scan --release 275a021b', 'it was a false alarm'],
    ['strata scan web-1 --on-open on', 'nothing is read or run there before clamd has seen it'],
  ],
  run: async (invocation) => {
    const digest = text(invocation, 'release');
    const isList = flag(invocation, 'list');
    if (
      (digest !== undefined || isList) &&
      (wordList(invocation, 0).length > 0 || (digest !== undefined && isList))
    )
      throw new StrataError('USAGE', '--list and --release stand alone');
    const atOpen = text(invocation, 'onOpen');
    if (atOpen !== undefined) return onOpen(invocation, atOpen === 'on');
    if (digest !== undefined) return release(invocation, digest);
    return isList ? list(invocation) : scan(invocation);
  },
};
