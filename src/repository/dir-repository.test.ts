/** Kind dir beyond the common suite: the Layers database, read-only and vanished sources, damaged units. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { hash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { makeDeb, temporaryDirectory } from '../../test/contract/repository/packages.ts';
import { StrataError } from '../base/index.ts';
import { parseStanzas } from '../formats/index.ts';
import { importDeb } from '../layer/index.ts';
import { addRepository, listRepositories, openRepository, removeRepository } from './index.ts';

async function withSource(body: (source: string, dir: string) => Promise<void>): Promise<void> {
  const dir = temporaryDirectory();
  try {
    const source = join(dir, 'layers');
    mkdirSync(source);
    for (const version of ['1', '2']) {
      const deb = makeDeb(dir, { name: 'alpha', version, depends: 'libc6' });
      await importDeb(deb, { repoDir: source, durable: false });
    }
    await body(source, dir);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/** Puts the directory's mtime into the past, where it is trusted. */
function age(source: string): void {
  utimesSync(source, 1000, 1000);
}

test('a source that does not exist is made; removing the repository leaves it', () =>
  withSource(async (_, dir) => {
    const source = join(dir, 'born');
    const { config, madeSource } = await addRepository(dir, { name: 'local', source });
    assert.equal(madeSource, true);
    assert.deepEqual(await openRepository(dir, config).offered(), []);
    const own = await addRepository(dir, { name: 'own', source: join(dir, 'repos/own/layers') });
    await removeRepository(dir, 'local');
    await removeRepository(dir, 'own');
    assert.ok(existsSync(source) && existsSync(own.config.source));
    assert.deepEqual(listRepositories(dir), []);
  }));

test('a source whose parent is missing is a slip: nothing is made, and the parent is named', () =>
  withSource(async (_, dir) => {
    const source = join(dir, 'no/such/layers');
    const adding = addRepository(dir, { name: 'local', source });
    await assert.rejects(adding, { code: 'NOT_FOUND', message: new RegExp(`no directory ${dir}/no/such`) });
    assert.ok(!existsSync(join(dir, 'no')));
    assert.deepEqual(listRepositories(dir), []);
  }));

test('bad sources are refused with what is supported', () =>
  withSource(async (source, dir) => {
    writeFileSync(join(dir, 'file'), '');
    const cases: [string, string][] = [
      ['relative/dir', 'USAGE'],
      [join(dir, 'file'), 'USAGE'],
      ['/', 'USAGE'],
      ['apt:../x', 'USAGE'],
      ['apt:', 'USAGE'],
      ['https://example.org/layers', 'UNSUPPORTED'],
      ['s3://bucket', 'UNSUPPORTED'],
    ];
    for (const [bad, code] of cases) {
      await assert.rejects(
        addRepository(dir, { name: 'x', source: bad }),
        (e: StrataError) => e.code === code && e.hint !== undefined,
        bad,
      );
    }
    await assert.rejects(addRepository(dir, { name: 'x', source, kind: 'rpm' }), /not supported yet/);
    assert.deepEqual(listRepositories(dir), []);
  }));

test('the Layers file has a stanza for each unit, is used by its stamp and rebuilt when it is wrong', () =>
  withSource(async (source, dir) => {
    const { config } = await addRepository(dir, { name: 'local', source });
    await openRepository(dir, config).sync();
    const file = join(source, 'Layers');
    const text = readFileSync(file, 'utf8');
    assert.deepEqual(
      parseStanzas(text).map((s) => [s.get('Layer'), s.get('Version'), s.get('Depends')]),
      [
        ['alpha', '1', 'libc6'],
        ['alpha', '2', 'libc6'],
      ],
    );
    // Another host's database with the right stamp is believed.
    const body = text.slice(text.indexOf('\n') + 1).replaceAll('libc6', 'libc6 (>= 2)');
    const head = text.slice(0, text.indexOf('\n') - 64);
    writeFileSync(file, `${head}${hash('sha256', body)}\n${body}`);
    rmSync(join(dir, 'repos/local/units.json'));
    const believed = await openRepository(dir, config).offered();
    assert.deepEqual(
      believed.map((u) => u.depends),
      ['libc6 (>= 2)', 'libc6 (>= 2)'],
    );
    for (const wrong of [text.replace(/stamp [0-9a-f]+/, 'stamp 00'), text.slice(0, -9), 'nonsense', '']) {
      writeFileSync(file, wrong);
      rmSync(join(dir, 'repos/local/units.json'));
      assert.deepEqual(
        (await openRepository(dir, config).offered()).map((u) => u.depends),
        ['libc6', 'libc6'],
      );
      assert.equal(readFileSync(file, 'utf8'), text);
    }
  }));

test('an unchanged directory is not read again; a changed one is', () =>
  withSource(async (source, dir) => {
    const repository = openRepository(dir, (await addRepository(dir, { name: 'local', source })).config);
    await repository.sync();
    age(source);
    const first = await repository.offered();
    assert.equal(await repository.offered(), first);
    await importDeb(makeDeb(dir, { name: 'beta', version: '1' }), { repoDir: source, durable: false });
    assert.deepEqual(
      (await repository.offered()).map((u) => u.layer),
      ['alpha', 'alpha', 'beta'],
    );
    rmSync(join(source, 'alpha_1'), { recursive: true });
    assert.deepEqual(
      (await repository.offered()).map((u) => `${u.layer} ${u.version}`),
      ['alpha 2', 'beta 1'],
    );
    writeFileSync(join(dir, 'repos/local/units.json'), 'damaged');
    assert.equal((await openRepository(dir, repository.config).offered()).length, 2);
  }));

test('damaged units are left out and told, the others are offered', () =>
  withSource(async (source, dir) => {
    mkdirSync(join(source, 'bad_1'));
    writeFileSync(join(source, 'bad_1/metadata'), 'no metadata');
    mkdirSync(join(source, 'other_9'));
    writeFileSync(join(source, 'other_9/metadata'), 'Layer: alpha\nVersion: 3\n');
    const messages: string[] = [];
    const repository = openRepository(dir, (await addRepository(dir, { name: 'local', source })).config);
    assert.deepEqual((await repository.sync((e) => messages.push(e.message ?? ''))).units, 2);
    assert.equal(messages.filter((m) => m.startsWith('left out')).length, 2);
  }));

test('a read-only source works, its database stays as it is', () =>
  withSource(async (source, dir) => {
    const mounted = join(dir, 'mounted');
    mkdirSync(mounted);
    execFileSync('mount', ['--bind', '-o', 'ro', source, mounted]);
    try {
      execFileSync('mount', ['-o', 'remount,bind,ro', mounted]);
      const { config } = await addRepository(dir, { name: 'share', source: mounted });
      const repository = openRepository(dir, config);
      assert.equal((await repository.offered()).length, 2);
      assert.equal((await repository.ensure([{ layer: 'alpha', version: '2' }])).length, 1);
      assert.ok(!existsSync(join(source, 'Layers')));
      const cache = statSync(join(dir, 'repos/share/units.json')).mtimeMs;
      age(source);
      assert.equal((await openRepository(dir, config).offered()).length, 2);
      assert.ok(statSync(join(dir, 'repos/share/units.json')).mtimeMs >= cache);
      await assert.rejects(repository.remove({ layer: 'alpha', version: '2' }), StrataError);
      assert.ok(existsSync(join(source, 'alpha_2/metadata')));
    } finally {
      execFileSync('umount', [mounted]);
    }
  }));

test('a source that has vanished is named, and works again when it is back', () =>
  withSource(async (source, dir) => {
    const repository = openRepository(dir, (await addRepository(dir, { name: 'local', source })).config);
    await repository.sync();
    renameSync(source, `${source}-away`);
    const gone = (e: StrataError): boolean =>
      e.code === 'NOT_FOUND' && e.message.includes(source) && !!e.hint;
    await assert.rejects(repository.offered(), gone);
    await assert.rejects(repository.stamp(), gone);
    await assert.rejects(repository.sync(), gone);
    await assert.rejects(repository.localUnits(), gone);
    await assert.rejects(repository.ensure([{ layer: 'alpha', version: '1' }]), gone);
    renameSync(`${source}-away`, source);
    assert.equal((await repository.offered()).length, 2);
  }));
