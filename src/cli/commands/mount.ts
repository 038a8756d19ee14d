/** `strata mount|umount`. */
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { StrataError } from '../../base/index.ts';
import type { CommandSpec } from '../command.ts';
import { flag, maybe, text, word } from '../words.ts';
import { CACHE_OPTION, cacheOption } from './cache-option.ts';

export const MOUNT_COMMANDS: CommandSpec[] = [
  {
    path: 'mount',
    summary: 'Mount the file system of an appliance',
    args: [
      { name: 'NAME', description: 'the appliance', kind: 'appliance' },
      { name: 'DIR', description: 'where; made when it does not exist', kind: 'dir' },
    ],
    options: [
      {
        long: '--door',
        value: 'DOOR',
        choices: ['fuse', 'sealed'],
        description:
          "fuse (default) follows updates at once; sealed is the kernel's own overlay of one moment",
      },
      CACHE_OPTION,
      { long: '--read-only', description: 'refuse every write' },
    ],
    examples: [
      ['strata mount web-1 /mnt/web-1', 'look at it, change it, chroot into it'],
      ['strata mount web-1 /mnt/web-1 --read-only', 'only look'],
    ],
    run: async (invocation) => {
      const result = await invocation.context.call('mount', {
        name: word(invocation, 0),
        dir: resolve(word(invocation, 1)),
        ...maybe('door', text(invocation, 'door') as 'fuse' | 'sealed' | undefined),
        ...cacheOption(invocation),
        ...(flag(invocation, 'readOnly') ? { readOnly: true } : {}),
      });
      return { json: result, human: (print) => print.line(`${result.name} is mounted at ${result.dir}`) };
    },
  },
  {
    path: 'umount',
    summary: 'Unmount an appliance',
    args: [
      {
        name: 'NAME|DIR',
        description: 'the appliance (all its mounts) or one mountpoint',
        kind: 'appliance',
      },
    ],
    options: [{ long: '--force', description: 'also when it is in use: lazily, as umount -l' }],
    examples: [
      ['strata umount web-1', 'everywhere'],
      ['strata umount /mnt/web-1', 'only there'],
    ],
    run: async (invocation) => {
      const target = word(invocation, 0);
      const force = flag(invocation, 'force') ? { force: true } : {};
      const request = (which: string) => invocation.context.call('umount', { target: which, ...force });
      const first = target.includes('/') || target.startsWith('.') ? resolve(target) : target;
      const result = await request(first).catch((error) => {
        // Not an appliance: perhaps a directory named from the current one.
        const directory = resolve(target);
        const missing = error instanceof StrataError && error.code === 'NOT_FOUND';
        if (!missing || directory === first || !existsSync(directory)) throw error;
        return request(directory);
      });
      return {
        json: result,
        human: (print) => {
          for (const dir of result.unmounted) print.line(`unmounted ${dir}`);
          if (result.unmounted.length === 0) print.line(`${target} is not mounted`);
        },
      };
    },
  },
];
