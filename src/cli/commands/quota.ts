/** `strata quota`, and what create and clone take of it: how much an appliance may take. */
import type { CommandSpec, Invocation, OptionSpec } from '../command.ts';
import { formatBytes } from '../format.ts';
import { optionalWord, parseCount, parseSize, text, word } from '../words.ts';

const INODES: OptionSpec = {
  long: '--inodes',
  value: 'N',
  description: 'files, directories and others that it may have of its own; none: any number',
};

/** What commands take that make appliances. */
export const QUOTA_OPTIONS: OptionSpec[] = [
  { long: '--quota', value: 'SIZE', description: 'space that it may take, such as 10G; none: any' },
  INODES,
];

interface Quota {
  quotaBytes?: number | 'none';
  quotaInodes?: number | 'none';
}

const NONE = 'none';

function limitsOf(size: string | undefined, inodes: string | undefined): Quota {
  return {
    ...(size === undefined ? {} : { quotaBytes: size === NONE ? NONE : parseSize('the quota', size) }),
    ...(inodes === undefined
      ? {}
      : { quotaInodes: inodes === NONE ? NONE : parseCount('--inodes', inodes, 0) }),
  };
}

/** What QUOTA_OPTIONS say. */
export function quotaOptions(invocation: Invocation): Quota {
  return limitsOf(text(invocation, 'quota'), text(invocation, 'inodes'));
}

export const QUOTA_COMMAND: CommandSpec = {
  path: 'quota',
  summary: 'Show or set how much an appliance may take',
  details:
    'What counts is what the appliance shows of its own, also what it shares with clones: the space of its files, 4 KiB for each directory. At the limit programs inside get EDQUOT ("Disk quota exceeded"), and can still delete; df shows the quota as the size of the disk. A mounted appliance obeys at once; programs that have a file open for writing when it gets its first quota may go on writing to that file until they close it.',
  args: [
    { name: 'NAME', description: 'the appliance', kind: 'appliance' },
    {
      name: 'SIZE',
      description: 'space that it may take, such as 10G; none: any',
      kind: 'text',
      optional: true,
    },
  ],
  options: [INODES],
  examples: [
    ['strata quota web-1', 'what it may take, and what it does'],
    ['strata quota web-1 10G --inodes 500000', 'limits for both'],
    ['strata quota web-1 none --inodes none', 'no limits'],
  ],
  run: async (invocation) => {
    const name = word(invocation, 0);
    const limits = limitsOf(optionalWord(invocation, 1), text(invocation, 'inodes'));
    const { call } = invocation.context;
    const quota =
      Object.keys(limits).length > 0
        ? await call('quotaSet', { name, ...limits })
        : await call('quotaShow', { name });
    const of = (limit: number | null, show: (value: number) => string): string =>
      limit === null ? 'no limit' : `of ${show(limit)}`;
    return {
      json: quota,
      human: (print) => {
        print.line(`space:  ${formatBytes(quota.used_bytes)}, ${of(quota.quota_bytes, formatBytes)}`);
        print.line(`inodes: ${quota.used_inodes}, ${of(quota.quota_inodes, String)}`);
      },
    };
  },
};
