/** `strata snapshot|snapshots|restore|merge|promote|tree|ttl|expire`: checkpoints, families and ends of appliances. */
import { StrataError } from '../../base/index.ts';
import type { FamilyMember } from '../../daemon/contract.ts';
import type { CommandSpec } from '../command.ts';
import { countOf, formatDuration } from '../format.ts';
import { duration, flag, insidePath, maybe, optionalWord, texts, word } from '../words.ts';
import { CHANGE_LETTERS } from './changes.ts';

const name = { name: 'NAME', description: 'the appliance', kind: 'appliance' } as const;

export const TTL_OPTION = {
  long: '--ttl',
  value: 'DURATION',
  description: 'delete it when this time is over: 90s, 15m, 2h, 7d, 4w',
} as const;

export const FAMILY_COMMANDS: CommandSpec[] = [
  {
    path: 'snapshot',
    summary: 'Keep what an appliance is now under a name',
    details:
      'Takes milliseconds, whatever the appliance holds, also while it is in use. A snapshot is what the appliance itself has changed: what its template brings is no part of it. `strata delete NAME@SNAPSHOT` removes one.',
    args: [
      name,
      { name: 'SNAPSHOT', description: 'its name (default: the time)', kind: 'text', optional: true },
    ],
    examples: [
      ['strata snapshot web-1 before-upgrade', 'can be gone back to'],
      ['strata diff web-1@before-upgrade web-1', 'what has changed since'],
    ],
    run: async (invocation) => {
      const result = await invocation.context.call('snapshot', {
        name: word(invocation, 0),
        ...maybe('snapshot', optionalWord(invocation, 1)),
      });
      return {
        json: result,
        human: (print) => print.line(`${result.name}@${result.snapshot}`),
      };
    },
  },
  {
    path: 'snapshots',
    summary: 'List the snapshots of an appliance',
    args: [name],
    examples: [['strata snapshots web-1', 'the oldest first']],
    run: async (invocation) => {
      const result = await invocation.context.call('snapshots', { name: word(invocation, 0) });
      return {
        json: result,
        human: (print) =>
          print.table(
            ['SNAPSHOT', 'CREATED'],
            result.snapshots.map((one) => [one.name, localTime(one.created_at)]),
            'no snapshots; `strata snapshot` takes one',
          ),
      };
    },
  },
  {
    path: 'restore',
    summary: 'Make an appliance what it was at a snapshot',
    details:
      'What it wrote since is lost, unless another snapshot or a clone has it. All its snapshots stay, later ones too. It may be mounted and in use: everything changes in one step, and programs keep the files that they have open, as after `strata reset`. Only a sealed mount must be unmounted first.',
    args: [name, { name: 'SNAPSHOT', description: 'one of its snapshots', kind: 'snapshot' }],
    examples: [['strata restore web-1 before-upgrade', 'back to the snapshot']],
    run: async (invocation) => {
      const result = await invocation.context.call('restore', {
        name: word(invocation, 0),
        snapshot: word(invocation, 1),
      });
      return {
        json: result,
        human: (print) =>
          print.line(`appliance ${result.name} is what it was at ${localTime(result.created_at)}`),
      };
    },
  },
  {
    path: 'merge',
    summary: 'Bring what a clone changed into its parent',
    details:
      'Three-way: what the child changed since both were alike is done in the parent. What the parent changed since stays. Where both changed the same, that is a conflict: all are named, and nothing is done unless it is said whose version to take. Works between any two appliances, whichever is the clone. Both may be mounted and in use: what the child is at one instant is taken, and the parent gets all of it in one step; its programs keep the files that they have open, as when files are replaced by renames. What is marked as nonclonable in a parent does not come to its clone. Conflicts: `changed` (both changed it), `added` (both made it), `type` (one is a directory, the other not), `metadata` (owner, mode, attributes), `deleted-by-child`, `deleted-by-parent` (one deleted what the other changed), `hidden` (the policy of the child hides what the parent has there).',
    args: [
      { name: 'CHILD', description: 'the appliance whose changes are taken', kind: 'appliance' },
      { name: 'PARENT', description: 'the appliance that gets them', kind: 'appliance' },
    ],
    options: [
      { long: '--theirs', description: "in conflicts take the child's version" },
      { long: '--ours', description: "in conflicts take the parent's version" },
      {
        long: '--theirs-path',
        value: 'PATH',
        repeat: true,
        description: "in conflicts at and below this path take the child's version (repeatable)",
      },
      {
        long: '--ours-path',
        value: 'PATH',
        repeat: true,
        description: "in conflicts at and below this path take the parent's version (repeatable)",
      },
      { long: '--dry-run', description: 'only tell what would change and what is in conflict' },
    ],
    examples: [
      ['strata merge test-1 web-1', 'what was tried in test-1 comes to web-1'],
      ['strata merge test-1 web-1 --dry-run', 'what would change, and the conflicts'],
      ['strata merge test-1 web-1 --ours --theirs-path /etc/nginx', 'conflicts: web-1, but test-1 for nginx'],
    ],
    run: async (invocation) => {
      const [theirs, ours] = [flag(invocation, 'theirs'), flag(invocation, 'ours')];
      if (theirs && ours) throw new StrataError('USAGE', '--theirs and --ours do not go together');
      const paths = (key: string): string[] => texts(invocation, key).map(insidePath);
      const result = await invocation.context.call('merge', {
        name: word(invocation, 0),
        into: word(invocation, 1),
        ...(theirs || ours ? { prefer: theirs ? 'theirs' : 'ours' } : {}),
        ours: paths('oursPath'),
        theirs: paths('theirsPath'),
        dryRun: flag(invocation, 'dryRun'),
      });
      return {
        json: result,
        human: (print) => {
          for (const { path, change } of result.changes) print.line(`${CHANGE_LETTERS[change]}  ${path}`);
          for (const { path, kind, taken } of result.conflicts)
            print.line(`C  ${path}  ${kind}${taken === null ? '' : `, ${taken} taken`}`);
          const what = countOf(result.changes.length, 'change');
          if (result.changes.length === 0 && result.conflicts.length === 0)
            print.line(`nothing to merge: ${result.into} has all that ${result.name} changed`);
          else if (!result.merged)
            print.line(`${what}, ${countOf(result.conflicts.length, 'conflict')}; nothing was done`);
          else print.line(`${what} of ${result.name} merged into ${result.into}`);
        },
      };
    },
  },
  {
    path: 'promote',
    summary: 'Make a clone the head in the place of its parent',
    details:
      'The clone takes the place of its parent in the family, and the parent becomes its clone. Nothing that either of them shows changes: frozen layers belong to all who need them, so a parent may be deleted without this.',
    args: [{ name: 'NAME', description: 'the clone', kind: 'appliance' }],
    examples: [['strata promote web-test', 'now web-1 is a clone of web-test']],
    run: async (invocation) => {
      const result = await invocation.context.call('promote', { name: word(invocation, 0) });
      return {
        json: result,
        human: (print) => print.line(`${result.former_parent} is a clone of ${result.name} now`),
      };
    },
  },
  {
    path: 'tree',
    summary: 'Show appliances with their clones and snapshots as a tree',
    details:
      'Below each template its appliances, below each appliance its snapshots and clones. A deleted appliance is left out: its clones then begin trees of their own.',
    args: [
      {
        name: 'NAME',
        description: 'only the family of this appliance',
        kind: 'appliance',
        optional: true,
      },
    ],
    examples: [
      ['strata tree', 'all families'],
      ['strata tree web-1', 'the family of web-1, from its head on'],
      [
        'strata tree --json | jq -r \'.appliances[] | select(.parent == "web-1") | .name\'',
        'the clones of web-1',
      ],
    ],
    run: async (invocation) => {
      const result = await invocation.context.call('tree', { ...maybe('name', optionalWord(invocation, 0)) });
      return {
        json: result,
        human: (print) => {
          for (const line of treeLines(result.appliances)) print.line(line);
          if (result.appliances.length === 0) print.line('no appliances; `strata create` makes one');
        },
      };
    },
  },
  {
    path: 'ttl',
    summary: 'Set when an appliance ends',
    details:
      'When the time is over, stratad unmounts and deletes it; one that is in use is deleted when it is free.',
    args: [
      name,
      { name: 'DURATION', description: 'from now on: 90s, 15m, 2h, 7d, 4w; or never', kind: 'text' },
    ],
    examples: [
      ['strata ttl test-1 2h', 'two hours more'],
      ['strata ttl test-1 never', 'it stays'],
    ],
    run: async (invocation) => {
      const given = word(invocation, 1);
      const result = await invocation.context.call('ttl', {
        name: word(invocation, 0),
        ttlSeconds: given === 'never' ? null : duration('DURATION', given),
      });
      return {
        json: result,
        human: (print) =>
          print.line(
            result.expires === null
              ? `appliance ${result.name} stays`
              : `appliance ${result.name} ends ${localTime(result.expires)}`,
          ),
      };
    },
  },
  {
    path: 'expire',
    summary: 'Delete the appliances whose time is over',
    details:
      'stratad does this by itself. Mounted ones are unmounted first; those in use are reported and stay until they are free. Exit status 1 when there are such.',
    options: [{ long: '--dry-run', description: 'only tell which' }],
    examples: [['strata expire --dry-run', 'whose time is over']],
    run: async (invocation) => {
      const dryRun = flag(invocation, 'dryRun');
      const result = await invocation.context.call('expire', dryRun ? { dryRun } : {});
      return {
        json: result,
        status: result.kept.length > 0 ? 1 : 0,
        human: (print) => {
          for (const one of result.expired) print.line(dryRun ? one : `appliance ${one} deleted`);
          for (const one of result.kept) print.line(`appliance ${one.name} stays: ${one.reason}`);
          if (result.expired.length + result.kept.length > 0) return;
          const next = result.next === null ? '' : `; the next one ends ${localTime(result.next)}`;
          print.line(`nothing has ended${next}`);
        },
      };
    },
  },
];

/** `2026-01-02 03:04:05`, in the time zone of this host. */
export function localTime(iso: string): string {
  const at = new Date(iso);
  const two = (value: number): string => String(value).padStart(2, '0');
  const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  return `${day} ${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

/** `in 2 h 5 min`, or `over`. */
export function endsIn(expires: string): string {
  const left = Date.parse(expires) - Date.now();
  return left <= 0 ? 'over' : `in ${formatDuration(Math.max(1000, left))}`;
}

interface Branch {
  text: string;
  below: Branch[];
}

/** The list, which is in tree order, as lines with branches. */
function treeLines(members: FamilyMember[]): string[] {
  const roots: Branch[] = [];
  const path: Branch[] = [];
  for (const member of members) {
    if (member.depth === 0 && roots.at(-1)?.text !== member.template)
      roots.push({ text: member.template, below: [] });
    const branch: Branch = { text: memberText(member), below: [] };
    for (const { name: snapshot } of member.snapshots) branch.below.push({ text: `@${snapshot}`, below: [] });
    (member.depth === 0 ? roots.at(-1)! : path[member.depth - 1]!).below.push(branch);
    path.length = member.depth;
    path.push(branch);
  }
  const lines: string[] = [];
  for (const root of roots) {
    lines.push(root.text);
    const pending = branchesOf(root, '');
    for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
      lines.push(`${next.indent}${next.isLast ? '└── ' : '├── '}${next.branch.text}`);
      pending.push(...branchesOf(next.branch, `${next.indent}${next.isLast ? '    ' : '│   '}`));
    }
  }
  return lines;
}

function branchesOf(of: Branch, indent: string): { branch: Branch; indent: string; isLast: boolean }[] {
  return of.below.map((branch, i) => ({ branch, indent, isLast: i === of.below.length - 1 })).reverse();
}

function memberText(member: FamilyMember): string {
  const notes = [
    member.mounts.length > 0 ? 'mounted' : null,
    member.expires === null ? null : `ends ${endsIn(member.expires)}`,
    member.deleted_parent === null ? null : `clone of ${member.deleted_parent}, deleted`,
  ].filter((note) => note !== null);
  return notes.length === 0 ? member.name : `${member.name}  (${notes.join(', ')})`;
}
