/**
 * What repositories there are: repos/NAME/repo.json under the state root. Adding checks the name, the source and the filters and writes the
 * file atomically; a directory without a whole repo.json is no repository. Must not touch units.
 */
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { dirname, isAbsolute, join, resolve } from 'node:path';
import { asStrataError, checkObjectName, FormatError, StrataError } from '../base/index.ts';
import { syncDirectory, writeFileDurably } from '../layer/index.ts';
import { parseAptSource } from './apt-source.ts';
import type { RepositoryConfig, RepositoryKind } from './contract.ts';
import { readIfThere } from './files.ts';
import { layerFilter } from './glob.ts';

const KINDS: readonly string[] = ['dir', 'apt', 'deb', 'rpm', 'http', 's3', 'oci'];
const SUPPORTED = 'supported are a directory (absolute path) and apt:SUITE, for example apt:bookworm';

export interface AddRepositoryOptions {
  name: string;
  /** An absolute directory, or `apt:SUITE[/COMPONENT]`. */
  source: string;
  kind?: RepositoryKind;
  allow?: string[];
  deny?: string[];
  keyFile?: string;
}

/** Directory of a repository's own files, $ROOT/repos/NAME. */
export function repositoryDir(root: string, name: string): string {
  return join(root, 'repos', checkObjectName('repository', name));
}

function kindOfSource(source: string): RepositoryKind {
  if (source.startsWith('apt:')) return 'apt';
  const scheme = /^([a-z][a-z0-9+.-]*):/i.exec(source)?.[1];
  if (scheme === undefined) return 'dir';
  if (scheme === 's3') return 's3';
  if (scheme === 'oci' || scheme === 'docker') return 'oci';
  return 'http';
}

/** Checks what the user gave; the result's source is canonical. Throws USAGE, BAD_NAME or UNSUPPORTED. */
export function checkedConfig(options: AddRepositoryOptions): RepositoryConfig {
  const name = checkObjectName('repository', options.name);
  const kind = options.kind ?? kindOfSource(options.source);
  if (!KINDS.includes(kind))
    throw new StrataError('USAGE', `${kind} is no kind of repository`, { hint: SUPPORTED });
  if (kind !== 'dir' && kind !== 'apt') {
    throw new StrataError(
      'UNSUPPORTED',
      `repositories of kind ${kind} (${options.source}) are not supported yet`,
      {
        hint: SUPPORTED,
      },
    );
  }
  const allow = options.allow ?? [];
  const deny = options.deny ?? [];
  layerFilter(allow, deny);
  const source = kind === 'apt' ? parseAptSource(options.source).text : checkedDirectory(options.source);
  return {
    name,
    kind,
    source,
    allow,
    deny,
    ...(options.keyFile === undefined ? {} : { keyFile: options.keyFile }),
  };
}

function checkedDirectory(source: string): string {
  if (!isAbsolute(source) || source.includes('\0'))
    throw new StrataError('USAGE', `${JSON.stringify(source)} is not an absolute directory`, {
      hint: SUPPORTED,
    });
  const dir = resolve(source);
  if (dir === '/')
    throw new StrataError('USAGE', 'the root directory cannot be a repository', {
      hint: 'give a directory that holds layer units only',
    });
  if (existsSync(dir) && !statSync(dir).isDirectory())
    throw new StrataError('USAGE', `${dir} is not a directory`, { hint: SUPPORTED });
  return dir;
}

/**
 * Writes repos/NAME/repo.json. A source directory that does not exist is made, where its parent exists: a repository is born. `madeSource` tells.
 * Throws EXISTS, NOT_FOUND.
 */
export function writeConfig(root: string, config: RepositoryConfig): { madeSource: boolean } {
  const dir = repositoryDir(root, config.name);
  const repos = dirname(dir);
  if (existsSync(join(dir, 'repo.json'))) {
    throw new StrataError('EXISTS', `there is already a repository ${config.name}`, {
      hint: `choose another name, or remove it: strata repo remove ${config.name}`,
    });
  }
  const text = `${JSON.stringify(config, null, 2)}\n`;
  const staged = join(repos, `.tmp-${config.name}-${process.pid}-${Date.now()}`);
  try {
    mkdirSync(repos, { recursive: true });
    syncDirectory(root);
    const madeSource = config.kind === 'dir' && makeSource(config.source, dir);
    if (existsSync(dir)) {
      // Its source, or what an earlier repository of that name left.
      writeFileDurably(join(dir, 'repo.json'), text);
      return { madeSource };
    }
    mkdirSync(staged);
    writeFileDurably(join(staged, 'repo.json'), text);
    renameSync(staged, dir);
    syncDirectory(repos);
    return { madeSource };
  } catch (error) {
    rmSync(staged, { recursive: true, force: true });
    throw asStrataError(error);
  }
}

/** True when the directory was not there. A missing parent is a slip of the hand, but in the repository's own directory. */
function makeSource(source: string, ownDir: string): boolean {
  if (existsSync(source)) return false;
  const parent = dirname(source);
  if (`${source}/`.startsWith(`${ownDir}/`)) mkdirSync(parent, { recursive: true });
  if (!existsSync(parent)) {
    throw new StrataError('NOT_FOUND', `there is no directory ${parent}, so no repository ${source} in it`, {
      hint: `correct the path, or first: mkdir -p ${source}`,
    });
  }
  mkdirSync(source);
  syncDirectory(parent);
  return true;
}

/** Reads repos/NAME/repo.json; null when it is no repository. Throws FormatError when the file is damaged. */
export function readConfig(root: string, name: string): RepositoryConfig | null {
  const file = join(repositoryDir(root, name), 'repo.json');
  const bytes = readIfThere(file);
  if (bytes === null) return null;
  const refuse = (what: string, cause?: unknown): never => {
    throw new FormatError(file, 0, what, { hint: 'repair the file or add the repository again', cause });
  };
  let value: Partial<Record<keyof RepositoryConfig, unknown>>;
  try {
    value = JSON.parse(bytes.toString('utf8'));
  } catch (error) {
    return refuse('it is no JSON', error);
  }
  const isStrings = (v: unknown): v is string[] => Array.isArray(v) && v.every((s) => typeof s === 'string');
  const { kind, source, allow, deny, keyFile } = value ?? {};
  if (value?.name !== name || typeof source !== 'string' || typeof kind !== 'string' || !KINDS.includes(kind))
    return refuse('name, kind or source is wrong');
  if (!isStrings(allow) || !isStrings(deny)) return refuse('allow or deny is no list');
  if (keyFile !== undefined && typeof keyFile !== 'string') return refuse('keyFile is no path');
  return {
    name,
    kind: kind as RepositoryKind,
    source,
    allow,
    deny,
    ...(keyFile === undefined ? {} : { keyFile }),
  };
}

/** All repositories under `root`, by name. */
export function listRepositories(root: string): RepositoryConfig[] {
  let names: string[];
  try {
    names = readdirSync(join(root, 'repos'));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw asStrataError(error);
  }
  const configs: RepositoryConfig[] = [];
  for (const name of names.sort()) {
    if (!/^[A-Za-z0-9]/.test(name)) continue;
    const config = readConfig(root, name);
    if (config !== null) configs.push(config);
  }
  return configs;
}

/**
 * Forgets a repository and deletes what was mirrored for it under repos/NAME. The source directory of kind dir is not touched, even
 * when it is repos/NAME itself. Throws NOT_FOUND. The caller has checked that nothing uses its units.
 */
export async function removeRepository(root: string, name: string): Promise<void> {
  const config = readConfig(root, name);
  if (config === null) throw new StrataError('NOT_FOUND', `there is no repository ${name}`);
  const dir = repositoryDir(root, name);
  try {
    const isOwnSource = config.kind === 'dir' && `${config.source}/`.startsWith(`${resolve(dir)}/`);
    if (isOwnSource) {
      rmSync(join(dir, 'repo.json'), { force: true });
      rmSync(join(dir, 'units.json'), { force: true });
      syncDirectory(dir);
      return;
    }
    const trash = join(root, 'repos', `.trash-${name}-${process.pid}-${Date.now()}`);
    renameSync(dir, trash);
    syncDirectory(join(root, 'repos'));
    rmSync(trash, { recursive: true, force: true });
  } catch (error) {
    throw asStrataError(error);
  }
}
