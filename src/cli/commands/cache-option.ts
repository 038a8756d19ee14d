/** `--cache`, as mount and run take it. */
import type { Invocation, OptionSpec } from '../command.ts';
import { maybe, text } from '../words.ts';

type CacheMode = 'shared' | 'exact';

export const CACHE_OPTION: OptionSpec = {
  long: '--cache',
  value: 'MODE',
  choices: ['shared', 'exact'],
  description:
    'shared (default): large shared files are read through one page cache for all appliances, and who has one open keeps its content when another program first writes to it; exact: everybody sees every write, as on ext4, and opening a file costs nothing, but each mount caches what it reads for itself and large files are read more slowly',
};

/** The mode that was given, if any. */
export function cacheOption(invocation: Invocation): { cache?: CacheMode } {
  return maybe('cache', text(invocation, 'cache') as CacheMode | undefined);
}
