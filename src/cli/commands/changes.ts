/** `strata diff|revert|reset|why`: what an appliance changed, and where its files come from. */
import { StrataError } from '../../base/index.ts';
import type { Result } from '../../daemon/contract.ts';
import type { CommandSpec, Invocation } from '../command.ts';
import { countOf } from '../format.ts';
import { insidePath, maybe, optionalWord, texts, word, wordList } from '../words.ts';

const name = { name: 'NAME', description: 'the appliance', kind: 'appliance' } as const;

export const CHANGE_LETTERS = { added: 'A', changed: 'M', deleted: 'D', metadata: 'm' } as const;

/** The second word is an appliance unless there is none of that name: then it is a path. */
async function callDiff(invocation: Invocation): Promise<Result<'diff'>> {
  const first = word(invocation, 0);
  const second = optionalWord(invocation, 1);
  const third = optionalWord(invocation, 2);
  const { context } = invocation;
  const below = (path: string | undefined): { path?: string } =>
    maybe('path', path === undefined ? undefined : insidePath(path));
  if (second === undefined) return context.call('diff', { name: first });
  if (third === undefined && second.includes('/'))
    return context.call('diff', { name: first, ...below(second) });
  try {
    return await context.call('diff', { name: first, other: second, ...below(third) });
  } catch (error) {
    const isNoName = error instanceof StrataError && ['NOT_FOUND', 'USAGE'].includes(error.code);
    if (!isNoName || third !== undefined || second.includes('@')) throw error;
    return context.call('diff', { name: first, ...below(second) });
  }
}

export const CHANGES_COMMANDS: CommandSpec[] = [
  {
    path: 'diff',
    summary: 'List what an appliance changed in its layers, or what tells two apart',
    details:
      'One line for each path: A added, M changed, D deleted, m only owner, mode or other metadata; then the unit that owns the original. `!` marks a private copy that hides a newer original: the layer was updated since. With OTHER, what makes OTHER of NAME (a snapshot alone is compared with its appliance); the cost is that of what differs, and what the policy of one of them excludes is not shown.',
    args: [
      { name: 'NAME', description: 'the appliance, or NAME@SNAPSHOT', kind: 'appliance' },
      {
        name: 'OTHER|PATH',
        description: 'another appliance or NAME@SNAPSHOT; or only below this path',
        kind: 'appliance',
        optional: true,
      },
      { name: 'PATH', description: 'only below this path', kind: 'text', optional: true },
    ],
    examples: [
      ['strata diff web-1', 'everything that stands apart from the layers'],
      ['strata diff web-1 /etc', 'only configuration'],
      ['strata diff web-1 test-1', 'what the clone test-1 has otherwise than web-1'],
      ['strata diff web-1@before-upgrade web-1 /etc', 'what has changed since the snapshot'],
    ],
    run: async (invocation) => {
      const result = await callDiff(invocation);
      return {
        json: result,
        human: (print) => {
          const widest = Math.min(60, Math.max(0, ...result.entries.map((e) => e.path.length)));
          for (const entry of result.entries) {
            const mark = entry.base_updated ? '!' : ' ';
            const owner = entry.layer === null ? '' : `  ${entry.layer}`;
            const note = entry.base_updated ? ' (updated since)' : '';
            print.line(
              `${CHANGE_LETTERS[entry.change]}${mark} ${entry.path.padEnd(widest)}${owner}${note}`.trimEnd(),
            );
          }
          const { beyond } = result;
          if (beyond !== undefined)
            print.line(
              `not looked at: ${countOf(beyond.count, 'path')} longer than 4,095 bytes, the first below ${beyond.first.slice(0, 200)}`,
            );
          else if (result.entries.length === 0) print.line('no changes');
        },
      };
    },
  },
  {
    path: 'revert',
    summary: 'Show the shared originals of changed or deleted paths again',
    args: [
      name,
      {
        name: 'PATH',
        description: 'a path in the appliance; a directory with all below',
        kind: 'text',
        variadic: true,
      },
    ],
    examples: [['strata revert web-1 /etc/nginx/nginx.conf', 'the layer shows through again']],
    run: async (invocation) => {
      const result = await invocation.context.call('revert', {
        name: word(invocation, 0),
        paths: wordList(invocation, 1).map(insidePath),
      });
      return {
        json: result,
        human: (print) => {
          for (const path of result.reverted) print.line(`reverted ${path}`);
          if (result.reverted.length === 0)
            print.line('nothing to revert: these paths are as the layers have them');
        },
      };
    },
  },
  {
    path: 'reset',
    summary: 'Give an appliance a fresh private layer',
    args: [name],
    options: [
      {
        long: '--keep',
        value: 'PATH',
        repeat: true,
        description: 'keep the private copy of this path and all below (repeatable)',
      },
    ],
    examples: [
      ['strata reset web-1', 'exactly as its template has it'],
      ['strata reset web-1 --keep /var/lib/mysql', 'but with its data'],
    ],
    run: async (invocation) => {
      const result = await invocation.context.call('reset', {
        name: word(invocation, 0),
        keep: texts(invocation, 'keep').map(insidePath),
      });
      return {
        json: result,
        human: (print) => {
          const kept = result.kept.length === 0 ? '' : `, ${countOf(result.kept.length, 'path')} kept`;
          print.line(`appliance ${result.name} is clean${kept}`);
        },
      };
    },
  },
  {
    path: 'why',
    summary: 'Tell which unit a path comes from, or why a layer is in',
    args: [
      name,
      { name: 'PATH|LAYER', description: 'a path (with a /, absolute) or the name of a layer', kind: 'text' },
    ],
    examples: [
      ['strata why web-1 /usr/bin/perl', 'the owner of a file'],
      ['strata why web-1 perl-base', 'the chain of dependencies that brought it in'],
    ],
    run: async (invocation) => {
      const what = word(invocation, 1);
      const result = await invocation.context.call('why', { name: word(invocation, 0), what });
      return {
        json: result,
        human: (print) => {
          const origin = result.private
            ? result.unit === null
              ? 'only in this appliance'
              : `changed by this appliance; the original is of ${result.unit}`
            : (result.unit ?? 'of no unit');
          print.line(`${result.path ?? result.layer ?? what}: ${origin}`);
          for (const link of result.chain) print.line(`  ${link}`);
        },
      };
    },
  },
];
