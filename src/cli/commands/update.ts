/** `strata update` and `strata rollback`: templates change, their appliances follow at once. */
import type { Result } from '../../daemon/contract.ts';
import type { CommandSpec, Outcome, Printer } from '../command.ts';
import { countOf, formatDuration } from '../format.ts';
import { flag, maybe, optionalWord, parseCount, word, wordList } from '../words.ts';

type Update = Result<'update'>;

function report(print: Printer, update: Update, dryRun: boolean): void {
  for (const template of update.templates) {
    if (template.held_back !== undefined) {
      print.line(`${template.name}: held back: ${template.held_back}`);
      continue;
    }
    if (template.from === template.to && template.changes.length === 0) {
      print.line(`${template.name}: nothing to do`);
      continue;
    }
    print.line(
      dryRun
        ? `${template.name}: would change ${countOf(template.changes.length, 'layer')}`
        : `${template.name}: generation ${template.from} -> ${template.to}`,
    );
    for (const change of template.changes)
      print.line(`  ${change.layer}  ${change.from ?? '(new)'} -> ${change.to ?? '(gone)'}`);
  }
  if (update.templates.length === 0) print.line('everything is up to date');
  for (const held of update.appliances.held_back) print.line(`${held.name}: held back: ${held.reason}`);
  const verb = dryRun ? 'would follow' : 'updated';
  print.line(
    `${countOf(update.appliances.updated, 'appliance')} ${verb}, ${formatDuration(update.elapsed_ms)}`,
  );
}

/** Status 3 when every template that was asked for by name had to be held back. */
function outcome(update: Update, options: { named: boolean; dryRun: boolean }): Outcome {
  const refused = update.templates.length > 0 && update.templates.every((t) => t.held_back !== undefined);
  return {
    json: update,
    status: options.named && refused ? 3 : 0,
    human: (print) => report(print, update, options.dryRun),
  };
}

export const UPDATE_COMMANDS: CommandSpec[] = [
  {
    path: 'update',
    summary: 'Bring templates and their appliances to the newest units',
    details:
      'Every appliance follows its template, running ones at once and without a restart. What cannot be updated is held back with the reason; everything else proceeds.',
    args: [
      {
        name: 'TEMPLATE',
        description: 'only these; default all',
        kind: 'template',
        optional: true,
        variadic: true,
      },
    ],
    options: [{ long: '--dry-run', description: 'only show what would change' }],
    examples: [
      ['strata update --dry-run', 'what would change'],
      ['strata update web', 'one template and its appliances'],
    ],
    run: async (invocation) => {
      const templates = wordList(invocation, 0);
      const dryRun = flag(invocation, 'dryRun');
      const update = await invocation.context.call('update', {
        ...(templates.length > 0 ? { templates } : {}),
        ...(dryRun ? { dryRun } : {}),
      });
      return outcome(update, { named: templates.length > 0, dryRun });
    },
  },
  {
    path: 'rollback',
    summary: 'Return a template to an earlier generation; its appliances follow',
    args: [
      { name: 'TEMPLATE', description: 'the template', kind: 'template' },
      { name: 'GENERATION', description: 'default the one before', kind: 'text', optional: true },
    ],
    examples: [
      ['strata rollback web', 'undo the last change'],
      ['strata rollback web 3', 'a certain generation'],
    ],
    run: async (invocation) => {
      const generation = optionalWord(invocation, 1);
      const update = await invocation.context.call('rollback', {
        template: word(invocation, 0),
        ...maybe(
          'generation',
          generation === undefined ? undefined : parseCount('GENERATION', generation, 1),
        ),
      });
      return outcome(update, { named: true, dryRun: false });
    },
  },
];
