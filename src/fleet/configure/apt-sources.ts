/**
 * The sources.list of a fresh Debian template: the archives that its layers came from, as the host's apt knows them, so that apt works
 * inside appliances. It must not copy secrets: sources with credentials and sources that only this host can reach are left out.
 */
import { execFile } from 'node:child_process';
import { basename, dirname, join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { readConfig } from '../../repository/index.ts';
import type { ConfigFile } from './contract.ts';

const run = promisify(execFile);
const FIELDS = ['CODENAME', 'SUITE', 'RELEASE', 'COMPONENT', 'REPO_URI'];

/**
 * The file for the repositories (kind apt) that the units in `unitDirs` come from; null when there is nothing to say. `root` is the
 * state root.
 */
export async function aptSourcesSeed(root: string, unitDirs: Iterable<string>): Promise<ConfigFile | null> {
  const suites = new Set<string>();
  const repositories = new Set<string>();
  for (const dir of unitDirs)
    if (dirname(dirname(dir)) === resolve(root, 'repos')) repositories.add(basename(dirname(dir)));
  for (const name of repositories) {
    const config = readConfig(root, name);
    const suite = config?.kind === 'apt' ? /^apt:([^/]+)/.exec(config.source)?.[1] : undefined;
    if (suite !== undefined) suites.add(suite);
  }
  if (suites.size === 0) return null;
  const format = FIELDS.map((field) => `$(${field})`).join('\t');
  try {
    const { stdout } = await run('apt-get', ['indextargets', '--format', format, 'Created-By: Packages'], {
      maxBuffer: 16 << 20,
      timeout: 30_000,
    });
    const content = sourcesList(stdout, [...suites]);
    return content === '' ? null : { path: join('etc/apt', 'sources.list'), content };
  } catch {
    // A template without sources is whole; apt in it only has nothing to fetch.
    return null;
  }
}

/** One-line sources from apt's index targets (tab-separated FIELDS) for the suites and their pockets. */
export function sourcesList(targets: string, suites: string[]): string {
  const components = new Map<string, Set<string>>();
  for (const line of targets.split('\n')) {
    const [codename, suite, release, component, uri] = line.split('\t');
    if (!release || !component || !uri || !isPublic(uri)) continue;
    const names = [codename, suite, release];
    if (!suites.some((wanted) => names.some((name) => name === wanted || name?.startsWith(`${wanted}-`))))
      continue;
    const key = `deb ${uri} ${release}`;
    components.set(key, (components.get(key) ?? new Set()).add(component));
  }
  return [...components].map(([key, names]) => `${key} ${[...names].join(' ')}\n`).join('');
}

function isPublic(uri: string): boolean {
  if (!URL.canParse(uri) || /\s/.test(uri)) return false;
  const url = new URL(uri);
  return ['http:', 'https:'].includes(url.protocol) && url.username === '' && url.password === '';
}
