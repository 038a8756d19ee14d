/** The order of scripts and the triggers that a change sets off, without running anything. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { randomRuns } from '../../base/random-runs.test-support.ts';
import { sourcesList } from './apt-sources.ts';
import { failureFromSteps } from './failure.ts';
import { bootstrapSet, dependencyGraph, dependencyOrder, stages } from './stages.ts';
import { activatedTriggers, parseTriggers, triggerFiles } from './triggers.ts';
import type { ScriptName, UnitFacts } from './unit-facts.ts';

interface Made {
  depends?: string;
  preDepends?: string;
  provides?: string;
  essential?: boolean;
  triggers?: string;
  scripts?: ScriptName[];
}

function unit(layer: string, made: Made = {}): UnitFacts {
  const { triggers = '', scripts = ['pre-install'], ...more } = made;
  return {
    ...{ dir: `/${layer}`, layer, version: '1', control: new Map(), conffiles: [], dpkgName: layer },
    ...{ architecture: 'all', hasSums: true, triggers, scripts: new Set(scripts) },
    metadata: { layer, version: '1', category: 'software', ...more },
  };
}

test('a pre-install waits until all that it pre-depends on is configured', () => {
  const units = [
    unit('server', { preDepends: 'tool | other', depends: 'data' }),
    unit('tool', { depends: 'virtual-lib' }),
    unit('lib', { provides: 'virtual-lib (= 2)' }),
    unit('data', { scripts: [] }),
  ];
  const found = stages(dependencyGraph(units), units, new Set());
  assert.deepEqual(
    found.map((s) => [s.preInstall.map((u) => u.layer), s.configure?.map((u) => u.layer).sort() ?? 'all']),
    [
      [
        ['lib', 'tool'],
        ['lib', 'tool'],
      ],
      [['server'], 'all'],
    ],
  );
  const settled = new Set(units.filter((u) => u.layer !== 'server'));
  assert.equal(stages(dependencyGraph(units), units, settled).length, 1, 'nothing to wait for');
});

test('cycles end', () => {
  const units = [
    unit('a', { preDepends: 'b' }),
    unit('b', { preDepends: 'a', depends: 'c' }),
    unit('c', { depends: 'b' }),
  ];
  const found = stages(dependencyGraph(units), units, new Set());
  assert.deepEqual(found.flatMap((s) => s.preInstall.map((u) => u.layer)).sort(), ['a', 'b', 'c']);
  assert.equal(dependencyOrder(dependencyGraph(units), units).length, 3);
});

test('in any graph every pre-install runs once, and in an acyclic one after its pre-dependencies', () => {
  const edges = fc.array(fc.tuple(fc.nat(11), fc.nat(11), fc.boolean()), { maxLength: 30 });
  fc.assert(
    fc.property(edges, fc.boolean(), (list, acyclic) => {
      const used = list.filter(([a, b]) => (acyclic ? a < b : a !== b));
      const needs = (i: number, pre: boolean) =>
        used
          .filter(([a, , p]) => a === i && p === pre)
          .map(([, b]) => `u${b}`)
          .join(', ');
      const units = Array.from({ length: 12 }, (_, i) =>
        unit(`u${i}`, { preDepends: needs(i, true), depends: needs(i, false) }),
      );
      const found = stages(dependencyGraph(units), units, new Set());
      const ran = found.flatMap((s) => s.preInstall.map((u) => u.layer));
      assert.deepEqual([...ran].sort(), units.map((u) => u.layer).sort());
      if (!acyclic) return;
      const stageOf = new Map(found.flatMap((s, i) => s.preInstall.map((u) => [u.layer, i] as const)));
      const configuredBy = new Map<string, number>();
      for (const [i, s] of found.entries()) for (const u of s.configure ?? []) configuredBy.set(u.layer, i);
      for (const [a, b, pre] of used)
        if (pre) assert.ok(configuredBy.get(`u${b}`)! < stageOf.get(`u${a}`)!, `u${a} pre-depends on u${b}`);
    }),
    randomRuns(300),
  );
});

test('the bootstrap set is what is essential and what that needs', () => {
  const units = [
    unit('dpkg', { essential: true, depends: 'libc' }),
    unit('libc'),
    unit('nginx', { depends: 'libc' }),
  ];
  const names = bootstrapSet(dependencyGraph(units), units).map((u) => u.layer);
  assert.deepEqual(names.sort(), ['dpkg', 'libc']);
});

test('triggers: directives, index, activation', () => {
  const text =
    '# comment\ninterest-noawait /usr/share/man\n interest ldconfig # why\nactivate-await x\nnonsense y\n';
  assert.deepEqual(
    parseTriggers(text).map((d) => `${d.verb} ${d.name} ${d.noawait}`),
    ['interest /usr/share/man true', 'interest ldconfig false', 'activate x false'],
  );
  const man = unit('man-db', { triggers: text });
  const files = triggerFiles([man, unit('zz', { triggers: 'interest ldconfig\ninterest ../../evil' })]);
  assert.equal(files.file, '/usr/share/man man-db/noawait\n');
  assert.deepEqual([...files.explicit], [['ldconfig', 'man-db\nzz\n']]);
  const paths: Record<string, string[]> = {
    page: ['/usr', '/usr/share', '/usr/share/man', '/usr/share/man/man1/x.1.gz'],
    near: ['/usr/share/manual/x', '/usr/share'],
  };
  const activated = (...names: string[]) =>
    activatedTriggers(
      names.map((n) => unit(n, n === 'lib' ? { triggers: 'activate-noawait ldconfig' } : {})),
      [man],
      (u) => paths[u.layer] ?? [],
    );
  assert.deepEqual(activated('page'), [{ name: '/usr/share/man', by: 'page' }]);
  assert.deepEqual(activated('near'), []);
  assert.deepEqual(activated('lib'), [{ name: 'ldconfig', by: 'lib' }]);
});

test('the failed script is read from the step log', () => {
  assert.deepEqual(failureFromSteps('script a preinst\nscript b preinst\nfailed script b preinst 3\n'), {
    unit: 'b',
    script: 'preinst',
  });
  const dpkg =
    'processing: configure: foo:amd64\nstatus: foo:amd64: half-configured\n' +
    'status: foo:amd64 : error : installed foo:amd64 package post-installation script subprocess returned error exit status 1\nfailed configure 1\n';
  assert.deepEqual(failureFromSteps(dpkg), { unit: 'foo', script: 'postinst' });
  assert.deepEqual(failureFromSteps('processing: configure: slow: 1\n'), {
    unit: 'slow',
    script: 'postinst',
  });
  assert.deepEqual(failureFromSteps('script a preinst\nfailed audit 1\n'), { unit: null, script: null });
});

test('a sources.list names the suites and pockets of the template, and no secrets', () => {
  const targets = [
    ['bookworm', 'oldstable', 'bookworm', 'main', 'http://archive.example/debian/'],
    ['bookworm', 'oldstable', 'bookworm', 'contrib', 'http://archive.example/debian/'],
    ['bookworm-security', 'oldstable-security', 'bookworm-security', 'main', 'https://security.example/'],
    ['trixie', 'stable', 'trixie', 'main', 'http://archive.example/debian/'],
    ['bookworm', '', 'bookworm', 'main', 'https://user:secret@private.example/'],
    ['bookworm', '', 'bookworm', 'main', 'copy:/srv/repo/'],
    ['', '', '', '', ''],
  ];
  const text = targets.map((line) => line.join('\t')).join('\n');
  assert.equal(
    sourcesList(text, ['bookworm']),
    'deb http://archive.example/debian/ bookworm main contrib\ndeb https://security.example/ bookworm-security main\n',
  );
  assert.equal(sourcesList(text, ['sid']), '');
});
