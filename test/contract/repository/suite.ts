/**
 * What every kind of repository must do (src/repository/contract.ts). A kind's test file gives a fixture; nothing here knows the
 * kind but through it.
 */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { StrataError } from '../../../src/base/index.ts';
import {
  addRepository,
  listRepositories,
  openRepository,
  type Repository,
  removeRepository,
} from '../../../src/repository/index.ts';
import { type SamplePackage, temporaryDirectory } from './packages.ts';

export interface RepositoryFixture {
  /** For addRepository. */
  source: string;
  /** Makes packages be offered once the repository has synced. */
  publish(packages: SamplePackage[]): Promise<void>;
  close(): void;
}

export interface KindUnderTest {
  kind: string;
  open(): RepositoryFixture;
  /** Units must be fetched before they are local. */
  onDemand: boolean;
}

const SAMPLES: SamplePackage[] = [
  { name: 'alpha', version: '1.0-1', depends: 'beta (>= 1), gamma | delta' },
  { name: 'alpha', version: '1:0.9' },
  { name: 'beta', version: '2.0~rc1' },
  { name: 'libgamma', version: '3+b1', architecture: 'amd64' },
];
const REFS = SAMPLES.map((s) => ({ layer: s.name, version: s.version }));

const hasCode =
  (code: string) =>
  (error: StrataError): boolean =>
    error instanceof StrataError && error.code === code;

/** Names that are neither units nor a repository's own files. */
export function leftovers(dir: string): string[] {
  return readdirSync(dir).filter((n) => n.startsWith('.') || n.includes('.tmp-'));
}

function names(units: readonly { layer: string; version: string }[]): string[] {
  return units.map((u) => `${u.layer} ${u.version}`).sort();
}

/** Runs the suite over one kind. */
export function testRepositoryKind(under: KindUnderTest): void {
  async function withRepository(
    options: { allow?: string[]; deny?: string[] },
    body: (repository: Repository, fixture: RepositoryFixture, root: string) => Promise<void>,
  ): Promise<void> {
    const root = temporaryDirectory();
    const fixture = under.open();
    try {
      await fixture.publish(SAMPLES);
      const { config } = await addRepository(root, { name: 'main', source: fixture.source, ...options });
      await body(openRepository(root, config), fixture, root);
    } finally {
      fixture.close();
      rmSync(root, { recursive: true, force: true });
    }
  }

  test(`${under.kind}: is added, listed and removed`, () =>
    withRepository({ allow: ['a*'] }, async (repository, fixture, root) => {
      assert.equal(repository.config.kind, under.kind);
      assert.deepEqual(listRepositories(root), [repository.config]);
      await assert.rejects(addRepository(root, { name: 'main', source: fixture.source }), hasCode('EXISTS'));
      await assert.rejects(
        addRepository(root, { name: '../x', source: fixture.source }),
        hasCode('BAD_NAME'),
      );
      await assert.rejects(
        addRepository(root, { name: 'x', source: fixture.source, allow: ['[a'] }),
        hasCode('USAGE'),
      );
      await removeRepository(root, 'main');
      assert.deepEqual(listRepositories(root), []);
      assert.deepEqual(readdirSync(join(root, 'repos')), []);
      await assert.rejects(removeRepository(root, 'main'), hasCode('NOT_FOUND'));
    }));

  test(`${under.kind}: offers every unit with its metadata, also when opened anew`, () =>
    withRepository({}, async (repository, _, root) => {
      const offered = await repository.offered();
      assert.deepEqual(names(offered), names(REFS));
      const alpha = offered.find((u) => u.version === '1.0-1')!;
      assert.equal(alpha.repo, 'main');
      assert.equal(alpha.depends, 'beta (>= 1), gamma | delta');
      assert.equal(alpha.category, 'software');
      assert.equal(offered.find((u) => u.layer === 'libgamma')!.architecture, 'amd64');
      const again = openRepository(root, repository.config);
      assert.deepEqual(await again.offered(), offered);
      assert.equal(await again.stamp(), await repository.stamp());
    }));

  test(`${under.kind}: a change of the source changes the stamp, and sync counts it`, () =>
    withRepository({}, async (repository, fixture) => {
      assert.deepEqual(await repository.sync(), { units: 4, added: 4, removed: 0 });
      const before = await repository.stamp();
      assert.deepEqual(await repository.sync(), { units: 4, added: 0, removed: 0 });
      assert.equal(await repository.stamp(), before);
      await fixture.publish([{ name: 'epsilon', version: '1' }]);
      assert.deepEqual(await repository.sync(), { units: 5, added: 1, removed: 0 });
      assert.notEqual(await repository.stamp(), before);
      assert.ok((await repository.offered()).some((u) => u.layer === 'epsilon'));
    }));

  test(`${under.kind}: filters decide what is offered, deny wins`, () =>
    withRepository({ allow: ['al*', 'lib[f-h]amm?'], deny: ['alph[!b-z]'] }, async (repository) => {
      assert.deepEqual(names(await repository.offered()), ['libgamma 3+b1']);
    }));

  test(`${under.kind}: ensure gives whole units in the order asked for, once`, () =>
    withRepository({}, async (repository) => {
      if (under.onDemand) assert.equal(repository.local(REFS[0]!), null);
      const order = [REFS[2]!, REFS[0]!, REFS[2]!, REFS[3]!, REFS[1]!];
      const [first, second] = await Promise.all([
        repository.ensure(order),
        repository.ensure(order.slice(1)),
      ]);
      assert.deepEqual(
        first.map((u) => u.metadata.version),
        order.map((r) => r.version),
      );
      assert.deepEqual(second, first.slice(1));
      for (const unit of first) {
        const { layer, version } = unit.metadata;
        assert.equal(unit.dir, join(repository.unitsDir, `${layer}_${version}`));
        assert.equal(
          readFileSync(join(unit.dir, 'filesystem/usr/share', layer, 'version'), 'utf8'),
          `${version}\n`,
        );
        assert.ok(existsSync(join(unit.dir, 'index')));
        assert.deepEqual(repository.local({ layer, version }), unit);
      }
      assert.deepEqual(names((await repository.localUnits()).map((u) => u.metadata)), names(REFS));
      assert.deepEqual(leftovers(repository.unitsDir), []);
      assert.deepEqual(await repository.ensure(order), first);
    }));

  test(`${under.kind}: what is not offered is NOT_FOUND, and nothing is fetched`, () =>
    withRepository({}, async (repository) => {
      const before = names((await repository.localUnits()).map((u) => u.metadata));
      for (const ref of [
        { layer: 'nothing', version: '1' },
        { layer: 'alpha', version: '7' },
      ])
        await assert.rejects(repository.ensure([REFS[0]!, ref]), hasCode('NOT_FOUND'));
      assert.deepEqual(names((await repository.localUnits()).map((u) => u.metadata)), before);
      assert.equal(repository.local({ layer: 'nothing', version: '1' }), null);
    }));

  test(`${under.kind}: remove deletes one unit`, () =>
    withRepository({}, async (repository) => {
      await repository.ensure(REFS);
      await repository.remove(REFS[0]!);
      assert.equal(repository.local(REFS[0]!), null);
      assert.equal((await repository.localUnits()).length, 3);
      await assert.rejects(repository.remove(REFS[0]!), hasCode('NOT_FOUND'));
      assert.deepEqual(leftovers(repository.unitsDir), []);
      if (under.onDemand) await repository.ensure([REFS[0]!]);
      else assert.ok(!(await repository.offered()).some((u) => u.version === '1.0-1'));
    }));
}
