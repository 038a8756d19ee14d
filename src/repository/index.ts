/**
 * The face of repository/: adding, listing, opening and removing repositories. Kinds here: `dir` (units stand in a directory) and `apt` (an on-demand mirror
 * of the host's own apt sources); both obey contract.ts and the suite in test/contract/repository.
 */
import { noProgress, type Progress, StrataError } from '../base/index.ts';
import { listsOfSource } from './apt-index.ts';
import { openAptRepository } from './apt-repository.ts';
import { type AddRepositoryOptions, checkedConfig, writeConfig } from './config.ts';
import type { Repository, RepositoryConfig } from './contract.ts';
import { openDirRepository } from './dir-repository.ts';

export { type AddRepositoryOptions, listRepositories, readConfig, removeRepository } from './config.ts';
export * from './contract.ts';

/** Opens a repository that `addRepository` made. Cheap: reads nothing yet. `root` is the state root. */
export function openRepository(root: string, config: RepositoryConfig): Repository {
  switch (config.kind) {
    case 'dir':
      return openDirRepository(root, config);
    case 'apt':
      return openAptRepository(root, config);
    default:
      throw new StrataError('UNSUPPORTED', `repositories of kind ${config.kind} are not supported yet`, {
        hint: 'supported are a directory and apt:SUITE',
      });
  }
}

/**
 * Checks and writes a repository's configuration. A directory that does not exist is made (`madeSource`); an apt suite must be one that the host's
 * sources have. Throws USAGE, BAD_NAME, EXISTS, UNSUPPORTED, NOT_FOUND; then nothing was written.
 */
export async function addRepository(
  root: string,
  options: AddRepositoryOptions,
  progress: Progress = noProgress,
): Promise<{ config: RepositoryConfig; madeSource: boolean }> {
  const config = checkedConfig(options);
  if (config.kind === 'apt') await listsOfSource(config.source, progress);
  return { config, ...writeConfig(root, config) };
}
