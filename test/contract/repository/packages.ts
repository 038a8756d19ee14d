/** Small packages and a small apt archive for tests: made with dpkg-deb, read by the host's apt through its own configuration (APT_CONFIG). */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';

export interface SamplePackage {
  name: string;
  version: string;
  depends?: string;
  architecture?: string;
  /** Bytes of a file that does not compress. */
  bulkBytes?: number;
}

export function temporaryDirectory(): string {
  const dir = mkdtempSync(join(tmpdir(), 'strata-repository-'));
  // apt reads and writes here as its own user where it must.
  chmodSync(dir, 0o755);
  return dir;
}

/** Makes a .deb in `dir` and returns its path. */
export function makeDeb(dir: string, p: SamplePackage): string {
  const tree = mkdtempSync(join(dir, 'tree-'));
  chmodSync(tree, 0o755);
  mkdirSync(join(tree, 'DEBIAN'));
  mkdirSync(join(tree, `usr/share/${p.name}`), { recursive: true });
  writeFileSync(join(tree, `usr/share/${p.name}/version`), `${p.version}\n`);
  if (p.bulkBytes !== undefined) {
    const bulk = Buffer.alloc(p.bulkBytes);
    for (let i = 0; i < bulk.length; i += 4)
      bulk.writeUInt32LE((Math.imul(i, 2654435761) ^ (i << 7)) >>> 0, i);
    writeFileSync(join(tree, `usr/share/${p.name}/bulk`), bulk);
  }
  const control = [
    `Package: ${p.name}`,
    `Version: ${p.version}`,
    `Architecture: ${p.architecture ?? 'all'}`,
    'Maintainer: Nobody <nobody@example.org>',
    ...(p.depends === undefined ? [] : [`Depends: ${p.depends}`]),
    `Description: sample ${p.name}`,
    '',
  ].join('\n');
  writeFileSync(join(tree, 'DEBIAN/control'), control);
  const file = join(dir, `${p.name}_${p.version.replace(':', '%3a')}.deb`);
  execFileSync('dpkg-deb', ['--root-owner-group', '-Zgzip', '-z1', '-b', tree, file], { stdio: 'ignore' });
  rmSync(tree, { recursive: true });
  return file;
}

export interface TinyArchive {
  dir: string;
  /** Packages lie here. */
  pool: string;
  /** Adds packages to the archive. */
  add(packages: SamplePackage[]): void;
  /** Changes the stanzas before they are published: to lie. */
  lie: (stanza: string) => string;
  /** Writes Packages and Release of what was added. */
  publish(): void;
  /** apt-get update with this archive alone. */
  update(): void;
  close(): void;
}

/** An archive with suite `tiny`, component `main`. From now on this process and its children use apt with nothing but it. */
export function tinyArchive(): TinyArchive {
  const dir = temporaryDirectory();
  const pool = join(dir, 'pool');
  const binary = join(dir, 'dists/tiny/main/binary-amd64');
  for (const d of [pool, binary, join(dir, 'apt/lists/partial'), join(dir, 'apt/cache/archives/partial')])
    mkdirSync(d, { recursive: true });
  writeFileSync(join(dir, 'sources.list'), `deb [trusted=yes] copy:${dir} tiny main\n`);
  writeFileSync(
    join(dir, 'apt.conf'),
    [
      `Dir::Etc::sourcelist "${dir}/sources.list";`,
      'Dir::Etc::sourceparts "/dev/null";',
      `Dir::State "${dir}/apt";`,
      `Dir::Cache "${dir}/apt/cache";`,
      'APT::Architecture "amd64";',
      'APT::Architectures { "amd64"; };',
      'APT::Sandbox::User "root";',
      '',
    ].join('\n'),
  );
  const before = process.env['APT_CONFIG'];
  process.env['APT_CONFIG'] = join(dir, 'apt.conf');
  const stanzas: string[] = [];
  const archive: TinyArchive = {
    dir,
    pool,
    lie: (stanza) => stanza,
    add(packages) {
      for (const p of packages) {
        const file = makeDeb(pool, p);
        const bytes = readFileSync(file);
        const control = execFileSync('dpkg-deb', ['-f', file], { encoding: 'utf8' });
        const sha256 = createHash('sha256').update(bytes).digest('hex');
        stanzas.push(
          `${control}Filename: pool/${basename(file)}\nSize: ${bytes.length}\nSHA256: ${sha256}\n`,
        );
      }
    },
    publish() {
      const packages = stanzas.map((s) => archive.lie(s)).join('\n');
      writeFileSync(join(binary, 'Packages'), packages);
      const sha256 = createHash('sha256').update(packages).digest('hex');
      const release = [
        'Suite: tiny',
        'Codename: tiny',
        'Components: main',
        'Architectures: amd64',
        `Date: ${new Date().toUTCString()}`,
        'SHA256:',
        ` ${sha256} ${Buffer.byteLength(packages)} main/binary-amd64/Packages`,
        '',
      ];
      writeFileSync(join(dir, 'dists/tiny/Release'), release.join('\n'));
    },
    update() {
      execFileSync('apt-get', ['update', '-q'], { stdio: ['ignore', 'ignore', 'inherit'] });
    },
    close() {
      if (before === undefined) delete process.env['APT_CONFIG'];
      else process.env['APT_CONFIG'] = before;
      rmSync(dir, { recursive: true, force: true });
    },
  };
  return archive;
}
