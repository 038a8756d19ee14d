/** `strata gc` and `strata fsck`: what a state root needs from time to time. Both run beside everything else. */
import type { Result } from '../../daemon/contract.ts';
import type { CommandSpec, Printer } from '../command.ts';
import { countOf, formatBytes, formatDuration } from '../format.ts';
import { flag, maybe, number } from '../words.ts';

/** Names shown of a dry run. */
const SHOWN = 50;
const TITLES: Record<string, string> = { journal: 'journal records', whiteouts: 'whiteout sets' };

function reportGc(print: Printer, result: Result<'gc'>): void {
  if (result.dry_run) {
    for (const { kind, name } of result.items.slice(0, SHOWN)) print.line(`${TITLES[kind] ?? kind}: ${name}`);
    if (result.count > SHOWN) print.line(`and ${result.count - SHOWN} more`);
  }
  const rows = result.removed
    .filter(({ count }) => count > 0)
    .map(({ kind, count, bytes }) => [TITLES[kind] ?? kind, String(count), formatBytes(bytes)]);
  print.table(['WHAT', 'COUNT', 'SIZE'], rows, 'nothing to remove');
  for (const note of result.notes) print.line(`note: ${note}`);
  const verb = result.dry_run ? 'would be freed' : 'freed';
  print.line(`${formatBytes(result.bytes)} ${verb}, ${formatDuration(result.elapsed_ms)}`);
}

function reportFsck(print: Printer, result: Result<'fsck'>): void {
  const rows = result.problems.map(({ object, problem, remedy, severity, repaired }) => [
    object,
    severity === 'warning' ? `warning: ${problem}` : problem,
    repaired ? 'repaired' : remedy,
  ]);
  const { checked } = result;
  if (rows.length > 0) print.table(['OBJECT', 'PROBLEM', 'WHAT TO DO'], rows, '');
  const counts = [
    countOf(checked.units, 'unit'),
    countOf(checked.generations, 'generation'),
    countOf(checked.appliances, 'appliance'),
    countOf(checked.mounts, 'mount'),
  ].join(', ');
  const errors = result.problems.filter(({ severity, repaired }) => severity === 'error' && !repaired).length;
  const verdict = errors === 0 ? 'clean' : countOf(errors, 'problem');
  print.line(`${counts} checked: ${verdict}, ${formatDuration(result.elapsed_ms)}`);
}

export const UPKEEP_COMMANDS: CommandSpec[] = [
  {
    path: 'gc',
    summary: 'Remove what nothing uses any more',
    details:
      'Old generations, mirrored layer units that no generation uses, and what killed processes left. It runs beside everything else and never makes a command wait. Units of `dir` repositories are never deleted.',
    options: [
      {
        long: '--keep',
        value: 'N',
        minimum: 1,
        description: 'generations of each template that stay, for rollback (default 5)',
      },
      { long: '--dry-run', description: 'only show what would go' },
    ],
    examples: [
      ['strata gc --dry-run', 'what would go, and its size'],
      ['strata gc --keep 1', 'as small as it gets: no rollback afterwards'],
    ],
    run: async (invocation) => {
      const result = await invocation.context.call('gc', {
        ...maybe('keep', number(invocation, 'keep')),
        ...(flag(invocation, 'dryRun') ? { dryRun: true } : {}),
      });
      return { json: result, human: (print) => reportGc(print, result) };
    },
  },
  {
    path: 'fsck',
    summary: 'Check that the files are sound',
    details:
      'Exits with status 1 when there are problems that are not repaired; warnings do not count. It runs beside everything else and reads only, unless --repair.',
    options: [
      { long: '--deep', description: 'also compare all content of layer units' },
      {
        long: '--repair',
        description: 'mend what is safe to mend: indexes, the catalog, links of machines, orphans',
      },
    ],
    examples: [
      ['strata fsck', 'a look at everything, in seconds'],
      ['strata fsck --deep', 'every byte of every layer unit'],
      ['strata fsck --repair', 'mend what is safe to mend'],
    ],
    run: async (invocation) => {
      const result = await invocation.context.call('fsck', {
        ...(flag(invocation, 'deep') ? { deep: true } : {}),
        ...(flag(invocation, 'repair') ? { repair: true } : {}),
      });
      return { json: result, status: result.clean ? 0 : 1, human: (print) => reportFsck(print, result) };
    },
  },
];
