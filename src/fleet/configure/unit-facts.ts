/**
 * What configuration needs to know of a layer unit: its dpkg control stanza, conffiles, scripts and triggers. Units never change, so
 * facts are remembered by directory. It must not follow symbolic links below a unit's directory: its tree comes from a package.
 */
import { closeSync, constants, lstatSync, openSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { FormatError } from '../../base/index.ts';
import {
  parseStanzas,
  parseUnitMetadata,
  type Stanza,
  stanzaField,
  type UnitMetadata,
} from '../../formats/index.ts';

export const SCRIPT_NAMES = ['pre-install', 'post-install', 'pre-remove', 'post-remove'] as const;
export type ScriptName = (typeof SCRIPT_NAMES)[number];

/** dpkg's names of the four scripts. */
export const DPKG_SCRIPT: Record<ScriptName, string> = {
  'pre-install': 'preinst',
  'post-install': 'postinst',
  'pre-remove': 'prerm',
  'post-remove': 'postrm',
};

export interface UnitFacts {
  dir: string;
  layer: string;
  version: string;
  metadata: UnitMetadata;
  /** The control stanza of a Debian package; null for a layer that was built by hand. */
  control: Stanza | null;
  /** "path md5" lines, as dpkg's status has them. */
  conffiles: string[];
  scripts: ReadonlySet<ScriptName>;
  /** Text of the package's triggers file. */
  triggers: string;
  /** Name of its files in var/lib/dpkg/info and in dpkg's arguments: PKG, or PKG:ARCH for Multi-Arch: same. */
  dpkgName: string;
  architecture: string;
  /** The package brought the md5sums of its files. */
  hasSums: boolean;
}

const MEMORY = 4096;
const known = new Map<string, UnitFacts>();

/** The facts of the unit in `dir`. Throws when there is no readable unit. */
export function unitFacts(dir: string): UnitFacts {
  const remembered = known.get(dir);
  if (remembered !== undefined) return remembered;
  const facts = readFacts(dir);
  if (known.size >= MEMORY) known.delete(known.keys().next().value!);
  known.set(dir, facts);
  return facts;
}

function readFacts(dir: string): UnitFacts {
  const metadata = parseUnitMetadata(readFileSync(join(dir, 'metadata')));
  const controlText = readUnitFile(dir, 'control');
  const control = controlText === null ? null : parseStanzas(controlText, { format: 'control' })[0];
  if (control === undefined) throw new FormatError('control', 0, `no stanza in ${dir}`);
  const architecture = (control && stanzaField(control, 'Architecture')) ?? metadata.architecture ?? 'all';
  const multiArchSame = (control && stanzaField(control, 'Multi-Arch')) === 'same';
  const packageName = (control && stanzaField(control, 'Package')) ?? metadata.layer;
  if (!/^[a-z0-9A-Z][a-zA-Z0-9+._-]*$/.test(packageName) || !/^[a-z0-9-]+$/.test(architecture))
    throw new FormatError('control', 0, `a bad package name or architecture in ${dir}`);
  const dpkgName = multiArchSame ? `${packageName}:${architecture}` : packageName;
  return {
    dir,
    layer: metadata.layer,
    version: metadata.version,
    metadata,
    control,
    conffiles: (readUnitFile(dir, 'conffiles')?.toString('utf8') ?? '')
      .split('\n')
      .filter((line) => line !== ''),
    scripts: new Set(scriptsOf(dir)),
    triggers: readUnitFile(dir, `filesystem/var/lib/dpkg/info/${dpkgName}.triggers`)?.toString('utf8') ?? '',
    dpkgName,
    architecture,
    hasSums: isRegular(dir, `filesystem/var/lib/dpkg/info/${dpkgName}.md5sums`),
  };
}

function scriptsOf(dir: string): ScriptName[] {
  return SCRIPT_NAMES.filter((name) => isRegular(dir, `scripts/${name}`));
}

/** True when `path` below `dir` is a regular file reached through real directories. */
function isRegular(dir: string, path: string): boolean {
  let at = dir;
  const parts = path.split('/');
  for (const [i, part] of parts.entries()) {
    at = join(at, part);
    const stat = lstatSync(at, { throwIfNoEntry: false });
    if (stat === undefined || (i < parts.length - 1 ? !stat.isDirectory() : !stat.isFile())) return false;
  }
  return true;
}

/** Bytes of a regular file of a unit; null when there is none. */
export function readUnitFile(dir: string, path: string): Buffer | null {
  if (!isRegular(dir, path)) return null;
  const fd = openSync(join(dir, path), constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    return readFileSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** Absolute paths of everything in the unit's tree: dpkg's own list for a package, else a walk. latin1 names. */
export function unitPaths(facts: UnitFacts): string[] {
  const list =
    facts.control && readUnitFile(facts.dir, `filesystem/var/lib/dpkg/info/${facts.dpkgName}.list`);
  if (list)
    return list
      .toString('latin1')
      .split('\n')
      .filter((line) => line !== '' && line !== '/.');
  const base = Buffer.from(join(facts.dir, 'filesystem'));
  const paths: string[] = [];
  const walk = (dir: Buffer, path: string): void => {
    for (const entry of readdirSync(dir, { withFileTypes: true, encoding: 'buffer' })) {
      const below = `${path}/${entry.name.toString('latin1')}`;
      paths.push(below);
      if (entry.isDirectory()) walk(Buffer.concat([dir, Buffer.from('/'), entry.name]), below);
    }
  };
  walk(base, '');
  return paths;
}
