/** The host's Debian archive as offered units, and the tools that judge a solution over it. For tests and benchmarks. */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DEB_FIELDS, metadataFromDebFields, scanStanzas } from '../formats/index.ts';
import type { OfferedUnit } from './contract.ts';

/** All units of the host's package lists, as repository `main`. */
export function readArchive(): OfferedUnit[] {
  const units: OfferedUnit[] = [];
  for (const file of packageLists()) {
    const bytes = execFileSync('/usr/lib/apt/apt-helper', ['cat-file', file], { maxBuffer: 1 << 30 });
    scanStanzas(bytes, [...DEB_FIELDS], (values) => {
      units.push({ repo: 'main', ...metadataFromDebFields(values) });
    });
  }
  return units;
}

function packageLists(): string[] {
  const targets = execFileSync(
    'apt-get',
    ['indextargets', '--format', '$(FILENAME)', 'Created-By: Packages'],
    {
      encoding: 'utf8',
    },
  );
  const files = targets.split('\n').filter(Boolean);
  if (files.length === 0) throw new Error('the host has no package lists: run apt-get update');
  return files;
}

/** What dose-debcheck says of `units` as a whole archive: its report of broken packages, '' when there are none. */
export function brokenPackages(units: readonly OfferedUnit[], directory: string): string {
  const file = join(directory, 'Packages');
  writeFileSync(file, units.map(stanza).join('\n'));
  const args = ['--deb-native-arch=amd64', '--failures', '--explain', file];
  const { status, stdout, stderr, error } = spawnSync('dose-debcheck', args, {
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  });
  if (error) throw error;
  if (status === 0) return '';
  return stdout + stderr;
}

function stanza(unit: OfferedUnit): string {
  const fields: [string, string | undefined][] = [
    ['Package', unit.layer],
    ['Version', unit.version],
    ['Architecture', unit.architecture],
    ['Multi-Arch', unit.multiArch],
    ['Essential', unit.essential ? 'yes' : undefined],
    ['Pre-Depends', unit.preDepends],
    ['Depends', unit.depends],
    ['Conflicts', unit.conflicts],
    ['Breaks', unit.breaks],
    ['Provides', unit.provides],
  ];
  return `${fields.flatMap(([name, value]) => (value === undefined ? [] : `${name}: ${value}\n`)).join('')}`;
}

/**
 * What apt would install on an empty machine: `name version` of each package. `directory` keeps apt's cache from call
 * to call. --print-uris, because apt's own simulation (-s) takes far longer than its decision.
 */
export function aptWouldInstall(
  packages: readonly string[],
  directory: string,
  recommends = false,
): Set<string> {
  const status = join(directory, 'status');
  if (!existsSync(status)) writeFileSync(status, '');
  mkdirSync(join(directory, 'archives/partial'), { recursive: true });
  const options = [
    `Dir::State::status=${status}`,
    `Dir::Cache=${directory}`,
    'Dir::Cache::pkgcache=pkgcache.bin',
    'Dir::Cache::srcpkgcache=srcpkgcache.bin',
    `APT::Install-Recommends=${recommends}`,
  ];
  const args = ['-qq', '--print-uris', ...options.flatMap((o) => ['-o', o]), 'install', ...packages];
  const out = execFileSync('apt-get', args, {
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const files = [...out.matchAll(/^'[^']*' ([^_\s]+)_([^_\s]+)_\S+\.deb /gm)];
  return new Set(files.map((m) => `${m[1]} ${decodeURIComponent(m[2]!)}`));
}
