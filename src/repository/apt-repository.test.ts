/** Kind apt beyond the common suite: lies, damage, vanished packages, kill -9 in the middle, lists that change, speed. */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import {
  type SamplePackage,
  type TinyArchive,
  temporaryDirectory,
  tinyArchive,
} from '../../test/contract/repository/packages.ts';
import { leftovers } from '../../test/contract/repository/suite.ts';
import type { ProgressEvent, StrataError } from '../base/index.ts';
import { verifyUnit } from '../layer/index.ts';
import { addRepository, openRepository, type Repository } from './index.ts';
import { readCache, writeCache } from './units-cache.ts';

async function withArchive(
  packages: SamplePackage[],
  body: (archive: TinyArchive, repository: Repository, root: string) => Promise<void>,
  lie: (stanza: string) => string = (s) => s,
): Promise<void> {
  const root = temporaryDirectory();
  const archive = tinyArchive();
  try {
    archive.lie = lie;
    archive.add(packages);
    archive.publish();
    archive.update();
    const repository = openRepository(
      root,
      (await addRepository(root, { name: 'main', source: 'apt:tiny' })).config,
    );
    await body(archive, repository, root);
  } finally {
    archive.close();
    rmSync(root, { recursive: true, force: true });
  }
}

const GOOD = { name: 'good', version: '1' };
const BAD = { name: 'bad', version: '1' };
const refs = (...packages: SamplePackage[]) => packages.map((p) => ({ layer: p.name, version: p.version }));
const failsWith =
  (code: string, message: RegExp) =>
  (e: StrataError): boolean =>
    e.code === code && message.test(e.message) && (code === 'BAD_FORMAT' || e.hint !== undefined);

/** What must hold after a failure: no half unit, no download, the good one can still be had. */
async function assertClean(repository: Repository): Promise<void> {
  assert.deepEqual(leftovers(repository.unitsDir), []);
  assert.equal(repository.local({ layer: 'bad', version: '1' }), null);
  const [good] = await repository.ensure(refs(GOOD));
  assert.deepEqual(await verifyUnit(good!), []);
}

test('a list that lies about a checksum', () =>
  withArchive(
    [GOOD, BAD],
    async (_, repository) => {
      await assert.rejects(repository.ensure(refs(GOOD, BAD)), failsWith('CHECKSUM', /checksum of bad 1/));
      await assertClean(repository);
    },
    (s) => (s.startsWith('Package: bad') ? s.replace(/SHA256: .{4}/, 'SHA256: 0000') : s),
  ));

test('a list that lies about a size', () =>
  withArchive(
    [GOOD, BAD],
    async (_, repository) => {
      await assert.rejects(
        repository.ensure(refs(BAD, GOOD)),
        failsWith('CHECKSUM', /bad 1.* has \d+ bytes/),
      );
      await assertClean(repository);
    },
    (s) => (s.startsWith('Package: bad') ? s.replace(/Size: /, 'Size: 9') : s),
  ));

test('a list that gives a package another name or version', () =>
  withArchive(
    [GOOD, { name: 'other', version: '1' }],
    async (_, repository) => {
      await assert.rejects(
        repository.ensure(refs(BAD)),
        failsWith('CHECKSUM', /says bad 1, but .* is other 1/),
      );
      await assertClean(repository);
    },
    (s) => s.replace('Package: other', 'Package: bad'),
  ));

test('a package that changed behind the list, and one that vanished', () =>
  withArchive([GOOD, BAD], async (archive, repository) => {
    const file = join(archive.pool, 'bad_1.deb');
    const bytes = readFileSync(file);
    bytes[200]! ^= 1;
    writeFileSync(file, bytes);
    await assert.rejects(repository.ensure(refs(BAD, GOOD)), failsWith('CHECKSUM', /bad 1/));
    rmSync(file);
    await assert.rejects(repository.ensure(refs(BAD, GOOD)), failsWith('FETCH', /cannot fetch bad 1/));
    await assertClean(repository);
  }));

test('a package that is damaged although its checksum is right', () => {
  const root = temporaryDirectory();
  const archive = tinyArchive();
  return (async () => {
    archive.add([GOOD, BAD]);
    const file = join(archive.pool, 'bad_1.deb');
    const half = readFileSync(file).subarray(0, 500);
    writeFileSync(file, half);
    const sha256 = execFileSync('sha256sum', [file], { encoding: 'utf8' }).slice(0, 64);
    archive.lie = (s) =>
      s.startsWith('Package: bad')
        ? s.replace(/Size: \d+/, 'Size: 500').replace(/SHA256: .*/, `SHA256: ${sha256}`)
        : s;
    archive.publish();
    archive.update();
    const repository = openRepository(
      root,
      (await addRepository(root, { name: 'main', source: 'apt:tiny' })).config,
    );
    await assert.rejects(repository.ensure(refs(GOOD, BAD)), failsWith('BAD_FORMAT', /before the end/));
    await assertClean(repository);
  })().finally(() => {
    archive.close();
    rmSync(root, { recursive: true, force: true });
  });
});

test('records that cannot be trusted are not offered; other architectures neither', () =>
  withArchive(
    [GOOD, BAD, { name: 'foreign', version: '1', architecture: 'arm64' }, { name: 'escape', version: '1' }],
    async (_, repository) => {
      assert.deepEqual(
        (await repository.offered()).map((u) => u.layer),
        ['good'],
      );
    },
    (s) =>
      s.startsWith('Package: bad')
        ? s.replace(/SHA256: .*\n/, '')
        : s.replace('Filename: pool/escape', 'Filename: ../../etc/escape'),
  ));

test('denied layers are not fetched, whoever asks', () =>
  withArchive([GOOD, BAD], async (_, repository, root) => {
    const filtered = openRepository(root, { ...repository.config, deny: ['b*'] });
    await assert.rejects(filtered.ensure(refs(BAD)), failsWith('DENIED', /not allowed by the filters/));
    assert.equal((await filtered.ensure(refs(GOOD))).length, 1);
  }));

test('a suite that the host does not have is refused, the ones it has are named', () =>
  withArchive([GOOD], async (_, __, root) => {
    for (const source of ['apt:nowhere', 'apt:tiny/contrib', 'apt:tin'])
      await assert.rejects(addRepository(root, { name: 'x', source }), (e: StrataError) => {
        return e.code === 'NOT_FOUND' && e.hint!.includes('suites here: tiny');
      });
    assert.equal(
      (await addRepository(root, { name: 'x', source: 'apt:tiny/main' })).config.source,
      'apt:tiny/main',
    );
  }));

test('a host without lists gets them; new lists are noticed without a sync', () =>
  withArchive([GOOD], async (archive, _, root) => {
    rmSync(join(archive.dir, 'apt/lists'), { recursive: true });
    mkdirSync(join(archive.dir, 'apt/lists/partial'), { recursive: true });
    const events: ProgressEvent[] = [];
    const { config } = await addRepository(root, { name: 'fresh', source: 'apt:tiny' }, (e) =>
      events.push(e),
    );
    assert.ok(events.some((e) => e.message?.includes('apt-get update')));
    const repository = openRepository(root, config);
    assert.equal((await repository.offered()).length, 1);
    const before = await repository.stamp();
    archive.add([BAD]);
    archive.publish();
    archive.update();
    assert.equal((await repository.offered()).length, 2);
    assert.notEqual(await repository.stamp(), before);
  }));

test('progress counts units and bytes to the end', () =>
  withArchive([GOOD, { ...BAD, bulkBytes: 300_000 }], async (archive, repository) => {
    const events: ProgressEvent[] = [];
    await repository.ensure(refs(GOOD, BAD), (e) => events.push(e));
    const bytes = ['good_1.deb', 'bad_1.deb'].reduce(
      (sum, f) => sum + statSync(join(archive.pool, f)).size,
      0,
    );
    assert.deepEqual(events.filter((e) => e.phase === 'fetch').at(-1), {
      phase: 'fetch',
      done: 2,
      total: 2,
      doneBytes: bytes,
      totalBytes: bytes,
    });
    const imports = events.filter((e) => e.phase === 'import');
    assert.deepEqual(
      imports.map((e) => e.done),
      [1, 2],
    );
  }));

test('kill -9 while packages come in: whole units or none, and the next call goes on', () => {
  const packages = Array.from({ length: 24 }, (_, i) => ({ name: `p${i}`, version: '1', bulkBytes: 50_000 }));
  return withArchive(packages, async (_, repository, root) => {
    const index = join(import.meta.dirname, 'index.ts');
    const script = `import { listRepositories, openRepository } from ${JSON.stringify(index)};
      const repository = openRepository(process.argv[1], listRepositories(process.argv[1])[0]);
      const units = await repository.offered();
      await repository.ensure(units, () => process.stdout.write('.'));`;
    for (const events of [2, 12]) {
      const child = spawn(process.execPath, ['--input-type=module', '-e', script, root], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      let seen = 0;
      child.stdout.on('data', (chunk: Buffer) => {
        seen += chunk.length;
        if (seen >= events) child.kill('SIGKILL');
      });
      await new Promise((resolve) => child.on('close', resolve));
      for (const unit of await repository.localUnits()) assert.deepEqual(await verifyUnit(unit), []);
    }
    const local = (await repository.localUnits()).length;
    assert.ok(local > 0 && local < 24, `${local} units before the last call`);
    const units = await repository.ensure(refs(...packages));
    assert.equal(units.length, 24);
    assert.deepEqual(leftovers(repository.unitsDir), []);
    assert.ok(units.every((u) => !existsSync(join(u.dir, '.unsynced'))));
  });
});

test('a full disk is NO_SPACE, and leaves the repository as it was', () =>
  withArchive(
    [GOOD, { ...BAD, bulkBytes: 3_000_000 }, { name: 'wide', version: '1', bulkBytes: 1_500_000 }],
    async (_, __, root) => {
      const small = join(root, 'small');
      mkdirSync(small);
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'strata-test', small]);
      try {
        const repository = openRepository(
          small,
          (await addRepository(small, { name: 'main', source: 'apt:tiny' })).config,
        );
        const full = (e: StrataError): boolean => e.code === 'NO_SPACE' && e.hint !== undefined;
        // The first does not even fit as a package, the second not as a package and a unit.
        await assert.rejects(repository.ensure(refs(BAD)), full);
        await assert.rejects(repository.ensure(refs({ name: 'wide', version: '1' })), full);
        await assertClean(repository);
        assert.equal((await repository.localUnits()).length, 1);
      } finally {
        execFileSync('umount', [small]);
      }
    },
  ));

test('a cache of 63,000 units is loaded in a second or so', () => {
  const dir = temporaryDirectory();
  try {
    const units = Array.from({ length: 63_000 }, (_, i) => ({
      layer: `package-${i}`,
      version: `1.${i}-1`,
      category: 'software',
      architecture: 'amd64',
      priority: 'optional',
      section: 'libs',
      description: 'a description of usual length, ä',
      installedBytes: i * 1024,
      depends: 'libc6 (>= 2.34), libgcc-s1 (>= 3.0), libstdc++6 (>= 11), libsomething (>= 1.2.3)',
      repo: 'main',
    }));
    writeCache(join(dir, 'units.json'), 'key', units);
    const before = process.cpuUsage();
    const cached = readCache<typeof units>(join(dir, 'units.json'))!;
    const { user, system } = process.cpuUsage(before);
    assert.deepEqual([cached.key, cached.content.length, cached.content[9]], ['key', 63_000, units[9]]);
    assert.ok(user + system < 8_000_000, `${(user + system) / 1000} ms of CPU`);
    writeFileSync(join(dir, 'units.json'), readFileSync(join(dir, 'units.json')).subarray(0, -5));
    assert.equal(readCache(join(dir, 'units.json')), null);
    assert.deepEqual(readdirSync(dir), ['units.json']);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});
