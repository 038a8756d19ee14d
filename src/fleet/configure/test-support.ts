/**
 * For tests: a root file system with the host's own dpkg and a few tools in it, and layer units made by hand that are composed into it.
 * No network, no packages.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import type { ScriptName } from './unit-facts.ts';
import { DPKG_SCRIPT } from './unit-facts.ts';

const TOOLS = [
  ...[
    'dash',
    'cat',
    'cp',
    'mv',
    'rm',
    'mkdir',
    'chmod',
    'ls',
    'cmp',
    'diff',
    'md5sum',
    'grep',
    'env',
    'readlink',
    'touch',
    'tar',
  ],
  ...['dpkg', 'dpkg-query', 'dpkg-trigger', 'dpkg-divert', 'dpkg-deb', 'dpkg-split'],
];
const SYSTEM_TOOLS = ['ldconfig', 'start-stop-daemon'];

/** True when these tests can run: root, and a Debian host. */
export function canConfigure(): boolean {
  return process.getuid?.() === 0 && existsSync('/usr/bin/dpkg') && existsSync('/usr/bin/dash');
}

export interface UnitRecipe {
  name: string;
  version: string;
  /** Fields of the control stanza besides name and version, e.g. { Depends: 'a' }. */
  fields?: Record<string, string>;
  scripts?: Partial<Record<ScriptName, string>>;
  triggers?: string;
  /** Path to content. */
  files?: Record<string, string>;
  conffiles?: string[];
  /** False for a package without the md5sums of its files. */
  sums?: boolean;
  /** False for a layer that was built by hand: no control file. */
  debian?: boolean;
}

export interface MiniDebian {
  root: string;
  rootfs: string;
  repo: string;
  /** Makes the unit's directory; `inPlace` also puts its files into the root file system. */
  unit(recipe: UnitRecipe, inPlace?: boolean): string;
  /** Takes a unit's files out of the root file system, as a new stack would. */
  withdraw(dir: string): void;
  /** Runs a command in the root file system and gives its output. */
  run(...command: string[]): string;
  read(path: string): string;
  remove(): void;
}

/** Makes the world in a temporary directory. */
export function makeMiniDebian(): MiniDebian {
  const root = mkdtempSync('/tmp/strata-configure-test-');
  const rootfs = join(root, 'rootfs');
  const repo = join(root, 'repo');
  for (const dir of [
    'usr/bin',
    'usr/sbin',
    'usr/lib',
    'usr/lib64',
    'etc',
    'proc',
    'sys',
    'dev',
    'tmp',
    'run',
    'var/log',
    'root',
  ])
    mkdirSync(join(rootfs, dir), { recursive: true });
  mkdirSync(repo);
  for (const name of ['bin', 'sbin', 'lib', 'lib64']) symlinkSync(`usr/${name}`, join(rootfs, name));
  for (const tool of TOOLS) copyProgram(rootfs, `/usr/bin/${tool}`);
  for (const tool of SYSTEM_TOOLS) copyProgram(rootfs, `/usr/sbin/${tool}`);
  symlinkSync('dash', join(rootfs, 'usr/bin/sh'));
  const listed = new Map<string, string[]>();
  return {
    root,
    rootfs,
    repo,
    unit: (recipe, inPlace = true) => {
      const { dir, files } = writeUnit(repo, recipe);
      listed.set(dir, files);
      if (inPlace) cpSync(join(dir, 'filesystem'), rootfs, { recursive: true });
      return dir;
    },
    withdraw: (dir) => {
      for (const file of listed.get(dir) ?? []) rmSync(join(rootfs, file), { force: true });
    },
    run: (...command) =>
      execFileSync('chroot', [rootfs, ...command], { stdio: ['ignore', 'pipe', 'pipe'] }).toString(),
    read: (path) => readFileSync(join(rootfs, path), 'utf8'),
    remove: () => rmSync(root, { recursive: true, force: true }),
  };
}

function copyProgram(rootfs: string, path: string): void {
  const real = execFileSync('readlink', ['-f', path]).toString().trim();
  const libraries = execFileSync('sh', ['-c', 'ldd "$0" 2>/dev/null || true', real]).toString();
  const place = (from: string, to: string) => {
    const target = join(rootfs, to);
    if (existsSync(target)) return;
    mkdirSync(dirname(target), { recursive: true });
    copyFileSync(from, target);
    chmodSync(target, 0o755);
  };
  place(real, path);
  for (const [, library] of libraries.matchAll(/(\/\S+) \(0x/g)) place(library!, library!);
}

function writeUnit(repo: string, recipe: UnitRecipe): { dir: string; files: string[] } {
  const { name, version, fields = {}, scripts = {}, conffiles = [] } = recipe;
  const dir = join(repo, `${name}_${version}`);
  const debian = recipe.debian ?? true;
  const files: string[] = [];
  const put = (path: string, text: string, mode = 0o644) => {
    mkdirSync(dirname(join(dir, path)), { recursive: true });
    writeFileSync(join(dir, path), text, { mode });
    chmodSync(join(dir, path), mode);
    if (path.startsWith('filesystem/')) files.push(path.slice('filesystem/'.length));
  };
  mkdirSync(join(dir, 'filesystem'), { recursive: true });
  const lines = Object.entries(fields).map(([field, value]) => `${field}: ${value}\n`);
  put('metadata', `Layer: ${name}\nVersion: ${version}\n${lines.join('')}`);
  for (const [path, text] of Object.entries(recipe.files ?? {})) put(`filesystem/${path}`, text);
  for (const [script, text] of Object.entries(scripts)) put(`scripts/${script}`, text, 0o755);
  if (!debian) return { dir, files };
  const architecture = fields['Architecture'] ?? 'all';
  const stanza = {
    Package: name,
    Version: version,
    Architecture: architecture,
    Maintainer: 'Nobody <n@example.org>',
    ...fields,
  };
  const description = 'Description: a test package\n with a longer text\n .\n of two paragraphs\n';
  put(
    'control',
    Object.entries(stanza)
      .map(([f, v]) => `${f}: ${v}\n`)
      .join('') + description,
  );
  const info = `filesystem/var/lib/dpkg/info/${fields['Multi-Arch'] === 'same' ? `${name}:${architecture}` : name}`;
  const listed = new Set(['/.']);
  for (const file of Object.keys(recipe.files ?? {})) {
    const parts = file.split('/');
    for (let i = 1; i <= parts.length; i++) listed.add(`/${parts.slice(0, i).join('/')}`);
  }
  put(`${info}.list`, `${[...listed].join('\n')}\n`);
  if (recipe.sums !== false) put(`${info}.md5sums`, '');
  if (recipe.triggers) put(`${info}.triggers`, recipe.triggers);
  for (const [script, text] of Object.entries(scripts))
    put(`${info}.${DPKG_SCRIPT[script as ScriptName]}`, text, 0o755);
  if (conffiles.length > 0) {
    const md5 = (path: string) => createHash('md5').update(recipe.files![path.slice(1)]!).digest('hex');
    put(`${info}.conffiles`, `${conffiles.join('\n')}\n`);
    put('conffiles', conffiles.map((path) => `${path} ${md5(path)}\n`).join(''));
  }
  return { dir, files };
}
