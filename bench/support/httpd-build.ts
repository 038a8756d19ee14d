/** A build of Apache httpd, from the source package in Debian's archive: unpack, configure, make, remove. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export const PHASES = ['unpack', 'configure', 'build', 'remove'] as const;
export type Phase = (typeof PHASES)[number];

const run = (cwd: string, command: string, ...args: string[]): void => {
  execFileSync(command, args, { cwd, stdio: 'pipe', maxBuffer: 1 << 28 });
};

/** Fetches the source by apt, with lists of its own; the archive's path, or null when there is none to be had. */
export function fetchHttpd(dir: string): string | null {
  const lists = join(dir, 'lists');
  mkdirSync(join(lists, 'partial'), { recursive: true });
  writeFileSync(join(dir, 'sources.list'), sources());
  const options = [
    `Dir::Etc::SourceList=${join(dir, 'sources.list')}`,
    'Dir::Etc::SourceParts=-',
    `Dir::State::Lists=${lists}`,
    `Dir::Cache=${dir}`,
  ].flatMap((option) => ['-o', option]);
  try {
    run(dir, 'apt-get', ...options, 'update');
    run(dir, 'apt-get', ...options, 'source', '--download-only', 'apache2');
  } catch {
    return null;
  }
  const name = readdirSync(dir).find((one) => /^apache2_.*\.orig\.tar\.\w+$/.test(one));
  return name === undefined ? null : join(dir, name);
}

/** The host's own archive of the release itself, as lines for its sources: mirrors of updates need not have those. */
function sources(): string {
  const format = 'deb-src $(REPO_URI) $(CODENAME) $(COMPONENT)';
  const lines = execFileSync('apt-get', ['indextargets', '--format', format, 'Created-By: Packages'], {
    encoding: 'utf8',
  });
  const ofRelease = lines.split('\n').filter((line) => !/-\S+ \S+$/.test(line));
  return `${[...new Set(ofRelease)].join('\n')}\n`;
}

/** Builds in a new directory `dir` and removes it. Milliseconds. */
export function buildHttpd(source: string, dir: string): Record<Phase, number> {
  mkdirSync(dir);
  const timed = (work: () => void): number => {
    const began = performance.now();
    work();
    return performance.now() - began;
  };
  const unpack = timed(() => run(dir, 'tar', 'xf', source, '--strip-components=1'));
  const configure = timed(() => run(dir, './configure', `--prefix=${join(dir, 'installed')}`));
  const build = timed(() => run(dir, 'make', '-j2'));
  const remove = timed(() => run('/', 'rm', '-rf', dir));
  return { unpack, configure, build, remove };
}
