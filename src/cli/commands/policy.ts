/** `strata policy ...`: what forks of an appliance, and an appliance itself, do not get. */
import { resolve } from 'node:path';
import { StrataError } from '../../base/index.ts';
import type { PolicyGraft, PolicySource } from '../../daemon/contract.ts';
import type { CommandSpec, Invocation, OptionSpec } from '../command.ts';
import { countOf } from '../format.ts';
import { insidePath, maybe, text, texts, word, wordList } from '../words.ts';

const RULE_OPTIONS: OptionSpec[] = [
  {
    long: '--exclude',
    value: 'PATTERN',
    repeat: true,
    description: 'what matches is not there, with all below it (as in .gitignore; repeatable)',
  },
  {
    long: '--substitute',
    value: 'PATH=FILE',
    repeat: true,
    description: 'PATH shows the content that FILE on this host has now (repeatable)',
  },
];

/** What commands take that give an appliance a policy. */
export const POLICY_OPTIONS: OptionSpec[] = [
  ...RULE_OPTIONS,
  {
    long: '--graft',
    value: 'PATH=APPLIANCE:PATH',
    repeat: true,
    description: 'PATH shows what another appliance has at a path now (repeatable)',
  },
  {
    long: '--policy',
    value: 'NAME',
    kind: 'policy',
    repeat: true,
    description: 'the rules of a policy (repeatable)',
  },
  { long: '--secrets', description: 'the rules of all policies that Strata offers for secrets' },
];

/** The place of the '=' in PATH=SOMETHING. */
function halves(given: string, option: string): [string, string] {
  const at = given.indexOf('=');
  if (at > 0 && at < given.length - 1) return [given.slice(0, at), given.slice(at + 1)];
  throw new StrataError('USAGE', `--${option} ${given} has no "=" between its parts`);
}

function rulesOf(invocation: Invocation): Pick<PolicySource, 'exclude' | 'substitutes'> {
  const exclude = texts(invocation, 'exclude');
  const substitutes = texts(invocation, 'substitute').map((given) => {
    const [path, file] = halves(given, 'substitute');
    return { path: insidePath(path), file: resolve(file) };
  });
  return {
    ...(exclude.length > 0 ? { exclude } : {}),
    ...(substitutes.length > 0 ? { substitutes } : {}),
  };
}

function graftOf(given: string): PolicyGraft {
  const [path, source] = halves(given, 'graft');
  const colon = source.indexOf(':');
  if (colon < 1) throw new StrataError('USAGE', `--graft ${given} names no appliance before a ":"`);
  return {
    path: insidePath(path).replace(/(?<=.)\/+$/, ''),
    appliance: source.slice(0, colon),
    from: insidePath(source.slice(colon + 1)),
  };
}

/** What POLICY_OPTIONS say. */
export function policyOptions(invocation: Invocation): PolicySource {
  const grafts = texts(invocation, 'graft').map(graftOf);
  const policies = texts(invocation, 'policy');
  return {
    ...rulesOf(invocation),
    ...(grafts.length > 0 ? { grafts } : {}),
    ...(policies.length > 0 ? { policies } : {}),
    ...(invocation.options['secrets'] === true ? { secrets: true } : {}),
  };
}

const policyName = { name: 'NAME', description: 'the policy', kind: 'policy' } as const;
const applianceName = { name: 'NAME', description: 'the appliance', kind: 'appliance' } as const;
const markedPaths = {
  name: 'PATH',
  description: 'files and directories in the appliance',
  kind: 'text',
  variadic: true,
} as const;

export const POLICY_COMMANDS: CommandSpec[] = [
  {
    path: 'policy create',
    summary: 'Make a policy',
    details:
      'A policy is a text of rules with comments that say what they protect. An appliance keeps what the policy says when it is given to it.',
    args: [policyName],
    options: [
      ...RULE_OPTIONS,
      { long: '--from', value: 'FILE', kind: 'file', description: 'a text with rules and comments' },
    ],
    examples: [
      ["strata policy create shop --exclude '/srv/shop/keys/' --exclude '*.sql.gz'", 'for forks of a shop'],
      ['strata policy create staging --substitute /srv/app/.env=staging.env', 'another file in its place'],
    ],
    run: async (invocation) => {
      const from = text(invocation, 'from');
      const made = await invocation.context.call('policyCreate', {
        name: word(invocation, 0),
        ...maybe('from', from === undefined ? undefined : resolve(from)),
        ...rulesOf(invocation),
      });
      return {
        json: made,
        human: (print) => print.line(`policy ${made.name} made: ${countOf(made.rules, 'rule')}`),
      };
    },
  },
  {
    path: 'policy list',
    summary: 'List the policies, those that Strata offers too',
    examples: [['strata policy list', 'names, rules and substitutes']],
    run: async ({ context }) => {
      const result = await context.call('policyList', {});
      return {
        json: result,
        human: (print) =>
          print.table(
            ['NAME', 'RULES', 'SUBSTITUTES', 'NOTE'],
            result.policies.map((p) => [
              p.name,
              String(p.rules),
              String(p.substitutes),
              p.offered ? 'by --secrets' : '',
            ]),
            'no policies',
          ),
      };
    },
  },
  {
    path: 'policy show',
    summary: 'Show the text of a policy',
    args: [policyName],
    examples: [['strata policy show secrets-ssh', 'each rule with what it protects']],
    run: async (invocation) => {
      const policy = await invocation.context.call('policyShow', { name: word(invocation, 0) });
      return {
        json: policy,
        human: (print) => {
          for (const line of policy.text.trimEnd().split('\n')) print.line(line);
        },
      };
    },
  },
  {
    path: 'policy delete',
    summary: 'Delete a policy',
    details: 'Appliances that it was given to keep its rules.',
    args: [policyName],
    examples: [['strata policy delete shop', 'the name is free again']],
    run: async (invocation) => {
      const name = word(invocation, 0);
      await invocation.context.call('policyDelete', { name });
      return { json: { name }, human: (print) => print.line(`policy ${name} deleted`) };
    },
  },
  {
    path: 'policy apply',
    summary: 'Make the policy of an appliance stricter',
    details:
      'What the rules exclude of all that the appliance did not write itself is gone at once, also where it is mounted, and for all its forks. What it writes itself at such places stays its own; its forks do not get it. A policy can only get stricter.',
    args: [applianceName],
    options: POLICY_OPTIONS,
    examples: [
      ['strata policy apply test-1 --secrets', 'none of the well-known secrets'],
      ["strata policy apply test-1 --exclude '**/.env' --policy shop", 'own rules and those of a policy'],
      [
        'strata policy apply test-1 --graft /srv/data=samples:/srv/data',
        "another appliance's files in place",
      ],
    ],
    run: async (invocation) => {
      const state = await invocation.context.call('policyApply', {
        name: word(invocation, 0),
        ...policyOptions(invocation),
      });
      return {
        json: state,
        human: (print) => print.line(`appliance ${state.name} has ${countOf(state.rules.length, 'rule')}`),
      };
    },
  },
  {
    path: 'policy rules',
    summary: 'Show the policy of an appliance',
    args: [applianceName],
    examples: [['strata policy rules test-1', 'its rules and where they came from']],
    run: async (invocation) => {
      const state = await invocation.context.call('policyRules', { name: word(invocation, 0) });
      return {
        json: state,
        human: (print) =>
          print.table(
            ['PATTERN', 'FROM'],
            state.rules.map(({ pattern, from }) => [pattern, from === '' ? '-' : from]),
            'no rules',
          ),
      };
    },
  },
  {
    path: 'policy mark',
    summary: 'Mark files and directories that no fork may get',
    details:
      'The mark is on the object, whatever its name becomes. Inside the appliance, who owns a file or directory can do the same: setfattr -n user.strata.nonclonable -v 1 FILE.',
    args: [applianceName, markedPaths],
    examples: [['strata policy mark db-1 /srv/db/master.key', 'it is in no fork made from now on']],
    run: (invocation) => markOrUnmark(invocation, true),
  },
  {
    path: 'policy unmark',
    summary: 'Take the mark away',
    args: [applianceName, markedPaths],
    examples: [['strata policy unmark db-1 /srv/db/master.key', 'forks made from now on get it']],
    run: (invocation) => markOrUnmark(invocation, false),
  },
  {
    path: 'policy log',
    summary: 'Show what the policy of an appliance denied',
    details:
      'One line for each path that was asked for, the last first. A sealed mount has no process that could note anything.',
    args: [applianceName],
    examples: [['strata policy log test-1', 'paths, how often, and which rule']],
    run: async (invocation) => {
      const log = await invocation.context.call('policyLog', { name: word(invocation, 0) });
      return {
        json: log,
        human: (print) => {
          print.table(
            ['LAST', 'COUNT', 'PATH', 'RULE', 'UID', 'PID'],
            log.denials.map((d) => [d.last, String(d.count), d.path, d.rule, String(d.uid), String(d.pid)]),
            'nothing was denied',
          );
          if (log.suppressed > 0) print.line(`and ${countOf(log.suppressed, 'path')} that came too fast`);
        },
      };
    },
  },
];

async function markOrUnmark(invocation: Invocation, marked: boolean): ReturnType<CommandSpec['run']> {
  const result = await invocation.context.call('policyMark', {
    name: word(invocation, 0),
    paths: wordList(invocation, 1).map(insidePath),
    marked,
  });
  return {
    json: result,
    human: (print) => {
      for (const path of result.paths) print.line(`${marked ? 'marked' : 'unmarked'} ${path}`);
    },
  };
}
