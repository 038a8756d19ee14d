/** `strata import-dir`: an existing root file system becomes an appliance. */
import { resolve } from 'node:path';
import { StrataError } from '../../base/index.ts';
import type { CommandSpec } from '../command.ts';
import { countOf, formatBytes, formatDuration } from '../format.ts';
import { flag, maybe, text, word } from '../words.ts';
import { QUOTA_OPTIONS, quotaOptions } from './quota.ts';

export const IMPORT_COMMAND: CommandSpec = {
  path: 'import-dir',
  summary: 'Make an appliance of an existing root file system',
  details:
    'SOURCE is a directory, a tar archive (plain, gzip, xz, zstd), or a file or partition with ext4, XFS or btrfs, which is mounted for reading only. Owners, modes, times, extended attributes, ACLs, capabilities, hard links, devices and holes come along; sockets, and what other file systems show in SOURCE, do not. Where the file system shares blocks (XFS, btrfs) nothing is copied. What was imported is the base of the appliance, below its template: `strata diff` shows what changed since, `strata reset` returns to it.',
  args: [
    { name: 'SOURCE', description: 'a directory, a tar archive or a file system', kind: 'file' },
    { name: 'NAME', description: 'the name of the appliance', kind: 'text' },
  ],
  options: [
    { long: '--move', description: 'take the directory itself: afterwards it is gone from its place' },
    {
      long: '--link',
      description:
        'share the files with the directory by hard links: what is later written into these files there, changes the appliance and all clones of it unnoticed; files that are replaced or deleted there stay',
    },
    {
      long: '--template',
      value: 'T',
      kind: 'template',
      description: 'the template whose layers lie above it (default: imported, which has none)',
    },
    { long: '--mac', value: 'MAC', description: 'hardware address by which a booting machine finds it' },
    ...QUOTA_OPTIONS,
  ],
  examples: [
    ['strata import-dir /srv/chroots/build build', 'by shared blocks where possible, else by a copy'],
    ['strata import-dir rootfs.tar.zst web-1 --quota 10G', 'an archive, such as docker export makes'],
    ['strata import-dir disk.ext4 vm-1', 'an image of a file system'],
    ['strata import-dir /srv/old old --move', 'without a copy, also when it is huge'],
  ],
  run: async (invocation) => {
    const how: 'move' | 'link' | undefined = flag(invocation, 'move')
      ? 'move'
      : flag(invocation, 'link')
        ? 'link'
        : undefined;
    if (flag(invocation, 'move') && flag(invocation, 'link'))
      throw new StrataError('USAGE', '--move and --link do not go together');
    const result = await invocation.context.call('importDir', {
      source: resolve(word(invocation, 0)),
      name: word(invocation, 1),
      ...(how === undefined ? {} : { how }),
      ...maybe('template', text(invocation, 'template')),
      ...maybe('mac', text(invocation, 'mac')),
      ...quotaOptions(invocation),
    });
    return {
      json: result,
      human: (print) => {
        print.line(`${result.name}  ${result.mac}`);
        print.line(
          `${countOf(result.entries, 'entry', 'entries')}, ${formatBytes(result.bytes)} imported in ${formatDuration(result.elapsed_ms)}`,
        );
        for (const path of result.left_out.slice(0, 10))
          print.line(`left out, another file system or the state of Strata: /${path}`);
        if (result.left_out.length > 10) print.line(`... and ${result.left_out.length - 10} more`);
      },
    };
  },
};
