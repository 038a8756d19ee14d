/** `strata create|clone|list|show|delete`: appliances. */
import type { Request, Result } from '../../daemon/contract.ts';
import type { CommandSpec } from '../command.ts';
import { countOf, formatBytes, formatDuration } from '../format.ts';
import { durationOption, flag, insidePath, maybe, number, text, word, wordList } from '../words.ts';
import { endsIn, localTime, TTL_OPTION } from './family.ts';
import { POLICY_OPTIONS, policyOptions } from './policy.ts';
import { QUOTA_OPTIONS, quotaOptions } from './quota.ts';

/** `1.2 GB with web-1, web-2 and 3 more`. */
function sharedOf(a: Result<'show'>): string {
  const names = [...new Set((a.shared_with ?? []).flatMap(({ appliances }) => appliances))];
  const most = Math.max(0, ...(a.shared_with ?? []).map(({ count }) => count));
  const shown = names.slice(0, 5);
  const more = Math.max(names.length, most) - shown.length;
  const others = `${shown.join(', ')}${more > 0 ? ` and ${more} more` : ''}`;
  return `${formatBytes(a.shared_bytes ?? 0)}${names.length > 0 ? ` with ${others}` : ''}`;
}

/** `NAME` or `NAME:/PATH`. */
function sourceOf(given: string): { source: string; path?: string } {
  const colon = given.indexOf(':');
  if (colon < 0) return { source: given };
  return { source: given.slice(0, colon), path: insidePath(given.slice(colon + 1)) };
}

function frozenLayers({ frozen_layers: count, merging }: Result<'show'>): string | undefined {
  if (count === undefined) return undefined;
  if (merging === undefined) return String(count);
  return `${count} (merging: ${merging.total === 0 ? 'waits' : `${merging.done} of ${merging.total}`})`;
}

export const APPLIANCE_COMMANDS: CommandSpec[] = [
  {
    path: 'create',
    summary: 'Create appliances of a template',
    details: 'An appliance is a few small files, whatever its size: creating one takes milliseconds.',
    args: [
      { name: 'NAME', description: 'its name; with --count NAME-1 ... NAME-N', kind: 'text' },
      {
        name: 'LAYER',
        description: "layers of its own, beside the template's",
        kind: 'offered',
        optional: true,
        variadic: true,
      },
    ],
    options: [
      {
        long: '--template',
        value: 'T',
        kind: 'template',
        required: true,
        description: 'the template it follows',
      },
      { long: '--mac', value: 'MAC', description: 'hardware address by which a booting machine finds it' },
      { long: '--count', value: 'N', minimum: 1, description: 'create N of them' },
      ...QUOTA_OPTIONS,
      TTL_OPTION,
    ],
    examples: [
      ['strata create web-1 --template web', 'one appliance'],
      ['strata create node --template web --count 1000', 'node-1 ... node-1000'],
      ['strata create db-1 --template web mariadb-server', 'with a layer of its own'],
      ['strata create ci-1 --template web --quota 10G --inodes 500000', 'it may take so much, and no more'],
    ],
    run: async (invocation) => {
      const layers = wordList(invocation, 1);
      const result = await invocation.context.call('create', {
        name: word(invocation, 0),
        template: text(invocation, 'template')!,
        ...maybe('mac', text(invocation, 'mac')),
        ...maybe('count', number(invocation, 'count')),
        ...(layers.length > 0 ? { layers } : {}),
        ...quotaOptions(invocation),
        ...maybe('ttlSeconds', durationOption(invocation, 'ttl')),
      });
      return {
        json: result,
        human: (print) => {
          const { appliances } = result;
          const elapsed = formatDuration(result.elapsed_ms);
          for (const a of appliances.slice(0, 10)) print.line(`${a.name}  ${a.mac}`);
          if (appliances.length > 10) print.line(`... and ${appliances.length - 10} more`);
          print.line(`${countOf(appliances.length, 'appliance')} created in ${elapsed}`);
        },
      };
    },
  },
  {
    path: 'clone',
    summary: 'Make an appliance from what another one is now',
    details:
      'Takes milliseconds, whatever the source holds. From then on neither sees what the other writes. Both share what is there now as frozen layers; either may be deleted first. Clones of clones have several frozen layers: small ones are merged, in the background unless --mode says otherwise. A clone has the quota of its source, unless another is given. When the command ends the clone is there whatever is killed; on the disk it is a moment later (with --mode sync: then), and at the latest with whatever is synced after it in either of the two. With SOURCE:/PATH all below the path is copied (by shared blocks where possible) to an appliance of its own, which does not follow updates.',
    args: [
      {
        name: 'SOURCE',
        description:
          'the appliance to clone, or NAME@SNAPSHOT; SOURCE:/PATH makes a directory of it the root of the clone',
        kind: 'appliance',
      },
      { name: 'NAME', description: 'the name of the clone', kind: 'text' },
    ],
    options: [
      {
        long: '--mode',
        value: 'MODE',
        choices: ['lazy', 'async', 'sync'],
        description:
          'async (default): frozen layers are merged later; sync: before the command ends, and the clone is on the disk then; lazy: never',
      },
      TTL_OPTION,
      ...POLICY_OPTIONS,
      ...QUOTA_OPTIONS,
    ],
    examples: [
      ['strata clone web-1 test-1', 'test-1 is what web-1 was at that instant'],
      ['strata clone test-1 test-1a --mode sync', 'a clone of a clone, with as few layers as possible'],
      ['strata clone web-1 test-3 --ttl 2h', 'deleted in two hours'],
      ['strata clone web-1@before-upgrade old-1', 'what web-1 was at its snapshot'],
      ['strata clone host:/srv/chroots/web web-2', 'a directory becomes the root'],
      [
        "strata clone web-1 test-2 --secrets --exclude '/srv/keys/'",
        'without well-known secrets, and without these',
      ],
    ],
    run: async (invocation) => {
      const result = await invocation.context.call('clone', {
        ...sourceOf(word(invocation, 0)),
        name: word(invocation, 1),
        ...maybe('ttlSeconds', durationOption(invocation, 'ttl')),
        ...maybe('mode', text(invocation, 'mode') as Request<'clone'>['mode']),
        ...policyOptions(invocation),
        ...quotaOptions(invocation),
      });
      return {
        json: result,
        human: (print) => {
          print.line(`${result.name}  ${result.mac}`);
          print.line(`cloned from ${result.source} in ${formatDuration(result.elapsed_ms)}`);
        },
      };
    },
  },
  {
    path: 'list',
    summary: 'List the appliances',
    options: [
      {
        long: '--size',
        description: 'count what each takes: what deleting it gives back, and what it shares with others',
      },
    ],
    examples: [
      ['strata list', 'names, templates and mounts'],
      ['strata list --size', 'with the space that each takes'],
      ["strata list --json | jq -r '.appliances[] | select(.held_back) | .name'", 'those held back'],
    ],
    run: async (invocation) => {
      const sizes = flag(invocation, 'size');
      const result = await invocation.context.call('list', sizes ? { sizes } : {});
      const size = (bytes: number | undefined): string[] => (sizes ? [formatBytes(bytes ?? 0)] : []);
      return {
        json: result,
        human: (print) =>
          print.table(
            [
              'NAME',
              'TEMPLATE',
              'GENERATION',
              'MAC',
              ...(sizes ? ['EXCLUSIVE', 'SHARED'] : []),
              'MOUNTS',
              'NOTE',
            ],
            result.appliances.map((a) => [
              a.name,
              a.template,
              String(a.generation),
              a.mac,
              ...size(a.exclusive_bytes),
              ...size(a.shared_bytes),
              a.mounts.join(' ') || '-',
              [
                a.held_back === null ? [] : `held back: ${a.held_back}`,
                a.expires === undefined ? [] : `ends ${endsIn(a.expires)}`,
              ]
                .flat()
                .join('; '),
            ]),
            'no appliances; `strata create` makes one',
          ),
      };
    },
  },
  {
    path: 'show',
    summary: 'Show one appliance',
    args: [{ name: 'NAME', description: 'the appliance', kind: 'appliance' }],
    examples: [['strata show web-1', 'its template, mounts, private bytes and LDF']],
    run: async (invocation) => {
      const a = await invocation.context.call('show', { name: word(invocation, 0) });
      return {
        json: a,
        human: (print) => {
          const facts: [string, string | undefined][] = [
            ['name', a.name],
            ['template', `${a.template} (generation ${a.generation})`],
            ['mac', a.mac],
            ['mounts', a.mounts.join(' ') || 'none'],
            ['held back', a.held_back ?? undefined],
            ['created', a.created_at === undefined ? undefined : localTime(a.created_at)],
            ['ends', a.expires === undefined ? undefined : `${localTime(a.expires)} (${endsIn(a.expires)})`],
            ['clone of', a.parent ?? undefined],
            ['snapshots', a.snapshots === undefined ? undefined : String(a.snapshots)],
            ['layers', a.layers === undefined ? undefined : String(a.layers)],
            ['frozen layers', frozenLayers(a)],
            ['private', a.private_bytes === undefined ? undefined : formatBytes(a.private_bytes)],
            ['exclusive', a.exclusive_bytes === undefined ? undefined : formatBytes(a.exclusive_bytes)],
            ['shared', a.shared_bytes === undefined ? undefined : sharedOf(a)],
            ['root', a.root],
          ];
          for (const [fact, value] of facts) if (value !== undefined) print.line(`${fact}: ${value}`);
          if (a.ldf) {
            print.line();
            for (const line of a.ldf.replace(/\n$/, '').split('\n')) print.line(line);
          }
        },
      };
    },
  },
  {
    path: 'delete',
    summary: 'Delete appliances with their private layers, or snapshots',
    details: 'Refused for an appliance that is mounted or runs. NAME@SNAPSHOT is a snapshot.',
    args: [{ name: 'NAME', description: 'the appliances, or snapshots', kind: 'appliance', variadic: true }],
    examples: [
      ['strata delete web-1 web-2', 'all of them, or none when one cannot be deleted'],
      ['strata delete web-1@before-upgrade', 'one snapshot'],
    ],
    run: async (invocation) => {
      const result = await invocation.context.call('delete', { names: wordList(invocation, 0) });
      return {
        json: result,
        human: (print) =>
          print.line(
            result.deleted.length === 1
              ? `${result.deleted[0]!.includes('@') ? 'snapshot' : 'appliance'} ${result.deleted[0]} deleted`
              : `${result.deleted.length} ${result.deleted.some((one) => one.includes('@')) ? 'objects' : 'appliances'} deleted`,
          ),
      };
    },
  },
];
