/** What a user relies on, one behaviour each: the stated order of "best" (docs/formats/resolution.md). */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  buildUniverse,
  joinUniverse,
  type OfferedUnit,
  type ResolveRequest,
  type ResolveResult,
} from './index.ts';
import { unit } from './test-support.ts';

type Solved = Extract<ResolveResult, { ok: true }>;

function solve(units: OfferedUnit[], request: ResolveRequest): Solved {
  const result = buildUniverse(units).resolve(request);
  assert.ok(result.ok, JSON.stringify(result));
  return result;
}

function names(result: Solved): string[] {
  return result.units.map(({ unit: u }) => `${u.repo}/${u.layer} ${u.version}`);
}

const main = (layer: string, version = '1', held = false) => ({ repo: 'main', layer, version, held });

test('a first alternative before a second, a real layer before a provider, the newest before an older', () => {
  const units = [
    unit('app', { depends: 'x | y, mail' }),
    unit('x 1'),
    unit('x 2'),
    unit('y'),
    unit('mail'),
    unit('amail', { provides: 'mail' }),
  ];
  assert.deepEqual(names(solve(units, { wishes: [{ layer: 'app' }] })), [
    'main/app 1',
    'main/mail 1',
    'main/x 2',
  ]);
});

test('a need that something chosen satisfies adds nothing, whichever comes first', () => {
  const units = [
    unit('app', { depends: 'x | y, other' }),
    unit('other', { depends: 'y' }),
    unit('x'),
    unit('y'),
  ];
  assert.deepEqual(names(solve(units, { wishes: [{ layer: 'app' }] })), [
    'main/app 1',
    'main/other 1',
    'main/y 1',
  ]);
});

test('an unversioned Provides satisfies only unversioned relations, a versioned one both', () => {
  const plain = unit('p', { provides: 'v' });
  const versioned = unit('q', { provides: 'v (= 2)' });
  const wishes = [{ layer: 'app' }];
  const ask = (depends: string): ResolveResult =>
    buildUniverse([unit('app', { depends }), plain]).resolve({ wishes });
  assert.equal(ask('v').ok, true);
  assert.equal(ask('v (>= 1)').ok, false);
  const both = [unit('app', { depends: 'v (>= 1)' }), plain, versioned];
  assert.deepEqual(names(solve(both, { wishes })), ['main/app 1', 'main/q 1']);
});

test('architecture qualifiers: any and native within one architecture; another architecture is not here', () => {
  const python = unit('python3', { architecture: 'amd64', multiArch: 'allowed' });
  const ask = (depends: string): boolean =>
    buildUniverse([unit('app', { depends, architecture: 'all' }), python]).resolve({
      wishes: [{ layer: 'app' }],
    }).ok;
  assert.deepEqual(['python3:any', 'python3:native', 'python3:amd64', 'python3:i386'].map(ask), [
    true,
    true,
    true,
    false,
  ]);
});

test('a unit never conflicts with itself; two units of one layer never meet, also across repositories', () => {
  const self = unit('mta', { provides: 'mail', conflicts: 'mail', replaces: 'mail' });
  assert.deepEqual(names(solve([self], { wishes: [{ layer: 'mta' }] })), ['main/mta 1']);
  const units = [unit('main/x 1'), unit('local/x 1')];
  const both = buildUniverse(units).resolve({
    wishes: [
      { repo: 'main', layer: 'x' },
      { repo: 'local', layer: 'x' },
    ],
  });
  assert.equal(both.ok, false);
});

test('installed versions stay, unless everything is upgraded; holds hold in both', () => {
  const units = [
    unit('app 1', { depends: 'lib' }),
    unit('app 2', { depends: 'lib' }),
    unit('lib 1'),
    unit('lib 2'),
  ];
  const installed = [main('app'), main('lib')];
  const wishes = [{ layer: 'app' }];
  const kept = solve(units, { wishes, installed });
  assert.deepEqual([kept.added, kept.removed, kept.changed], [[], [], []]);
  const upgraded = solve(units, { wishes, installed, upgrade: 'all' });
  assert.deepEqual(upgraded.changed, [
    { layer: 'app', from: '1', to: '2' },
    { layer: 'lib', from: '1', to: '2' },
  ]);
  const held = solve(units, { wishes, installed: [main('app'), main('lib', '1', true)], upgrade: 'all' });
  assert.deepEqual(held.changed, [{ layer: 'app', from: '1', to: '2' }]);
});

test('an upgrade that would remove an explicit layer keeps the old version of what is in the way', () => {
  const units = [
    unit('app', { depends: 'lib (<< 2)' }),
    unit('tool 1', { depends: 'lib' }),
    unit('tool 2', { depends: 'lib (>= 2)' }),
    unit('lib 1'),
    unit('lib 2'),
    unit('free 1'),
    unit('free 2'),
  ];
  const installed = [main('app'), main('tool'), main('lib'), main('free')];
  const wishes = ['app', 'tool', 'free'].map((layer) => ({ layer }));
  const result = solve(units, { wishes, installed, upgrade: 'all' });
  assert.deepEqual(result.changed, [{ layer: 'free', from: '1', to: '2' }]);
  assert.deepEqual(result.removed, []);
});

test('a new layer changes as little as possible, and downgrades only when nothing else works', () => {
  const units = [
    unit('new', { depends: 'lib (>= 2)' }),
    unit('old', { depends: 'lib (<< 3)' }),
    unit('lib 1'),
    unit('lib 2'),
    unit('lib 3'),
    unit('other 1'),
    unit('other 2'),
  ];
  const upgraded = solve(units, {
    wishes: [{ layer: 'lib' }, { layer: 'other' }, { layer: 'new' }],
    installed: [main('lib'), main('other')],
  });
  assert.deepEqual(upgraded.changed, [{ layer: 'lib', from: '1', to: '3' }]);
  const downgraded = solve(units, {
    wishes: [{ layer: 'lib' }, { layer: 'old' }],
    installed: [main('lib', '3')],
  });
  assert.deepEqual(downgraded.changed, [{ layer: 'lib', from: '3', to: '2' }]);
});

test('what is not needed any more goes; an installed alternative stays', () => {
  const units = [
    unit('app', { depends: 'x | y' }),
    unit('x'),
    unit('y'),
    unit('gone', { depends: 'z' }),
    unit('z'),
  ];
  const result = solve(units, {
    wishes: [{ layer: 'app' }],
    installed: [main('app'), main('y'), main('gone'), main('z')],
  });
  assert.deepEqual(names(result), ['main/app 1', 'main/y 1']);
  assert.deepEqual(result.removed, ['main/gone 1', 'main/z 1']);
});

test('a published unit of another repository replaces the installed one at the next upgrade', () => {
  const units = [unit('nginx 1'), unit('local/nginx 2')];
  const request = { wishes: [{ layer: 'nginx' }], installed: [main('nginx')] };
  assert.deepEqual(names(solve(units, { ...request, upgrade: 'all' })), ['local/nginx 2']);
  const same = [unit('nginx 1'), unit('a-first/nginx 1')];
  assert.deepEqual(
    names(solve(same, { ...request, upgrade: 'all' })),
    ['main/nginx 1'],
    'not for an equal version',
  );
});

test('a unit of a repository brings what is essential there; a unit of a plain repository does not', () => {
  const units = [
    unit('base', { essential: true }),
    unit('shell', { priority: 'required', depends: 'libc' }),
    unit('libc'),
    unit('nginx'),
    unit('local/tool'),
    unit('local/site', { depends: 'nginx' }),
  ];
  const all = ['main/base 1', 'main/libc 1', 'main/nginx 1', 'main/shell 1'];
  assert.deepEqual(names(solve(units, { wishes: [{ layer: 'nginx' }] })).sort(), all);
  assert.deepEqual(names(solve(units, { wishes: [{ layer: 'site' }] })).sort(), ['local/site 1', ...all]);
  assert.deepEqual(names(solve(units, { wishes: [{ layer: 'tool' }] })), ['local/tool 1']);
  const reasons = solve(units, { wishes: [{ layer: 'nginx' }] }).units.map((s) => [
    s.unit.layer,
    s.explicit,
    s.reason,
  ]);
  assert.deepEqual(reasons, [
    ['nginx', true, null],
    ['base', false, { requiredBy: null, relation: 'essential' }],
    ['libc', false, { requiredBy: 'main/shell 1', relation: 'libc' }],
    ['shell', false, { requiredBy: null, relation: 'essential' }],
  ]);
});

test('Recommends: followed further, in order, each only if it fits; not for the base nor for installed layers', () => {
  const units = [
    unit('app', { depends: 'lib', recommends: 'docs, enemy, missing, friend' }),
    unit('lib'),
    unit('docs', { recommends: 'viewer' }),
    unit('viewer'),
    unit('enemy', { conflicts: 'lib' }),
    unit('friend', { conflicts: 'viewer' }),
    unit('base', { essential: true, recommends: 'extra' }),
    unit('extra'),
    unit('was', { recommends: 'extra' }),
  ];
  const fresh = solve(units, { wishes: [{ layer: 'app' }], recommends: true });
  assert.deepEqual(names(fresh), ['main/app 1', 'main/base 1', 'main/docs 1', 'main/friend 1', 'main/lib 1']);
  const later = solve(units, {
    wishes: [{ layer: 'was' }, { layer: 'app' }],
    installed: [main('was'), main('base')],
    recommends: true,
  });
  assert.equal(later.added.includes('main/extra 1'), false);
  const kept = solve(units, {
    wishes: [{ layer: 'app' }],
    installed: [main('app'), main('base'), main('lib'), main('docs')],
  });
  assert.deepEqual(kept.removed, [], 'what was recommended once stays');
});

test('why: the shortest chain from an explicit layer', () => {
  const universe = buildUniverse([
    unit('app 1.0', { depends: 'mid, server' }),
    unit('mid', { depends: 'far' }),
    unit('far', { depends: 'lib (>= 1)' }),
    unit('apache 2', { provides: 'server', depends: 'lib' }),
    unit('lib 3'),
    unit('shell', { essential: true }),
  ]);
  const { units } = universe.resolve({ wishes: [{ layer: 'app' }] }) as Solved;
  assert.deepEqual(universe.why(units, 'lib'), [
    'main/app 1.0 is an explicit layer',
    'main/app 1.0 depends on server, which main/apache 2 provides',
    'main/apache 2 depends on lib',
  ]);
  assert.deepEqual(universe.why(units, 'shell'), [
    'main/shell 1 belongs to the base of its repository (essential)',
  ]);
  assert.deepEqual(universe.why(units, 'nothing'), []);
});

test('versions and providers; duplicates count once; one malformed record harms nobody else', () => {
  const universe = buildUniverse(
    [
      unit('x 1'),
      unit('x 10'),
      unit('x 9'),
      unit('x 9'),
      unit('local/x 9'),
      unit('y', { provides: 'v, (((' }),
      unit('z', { provides: 'v' }),
    ],
    { repositories: ['main', 'local'] },
  );
  assert.equal(universe.size, 6);
  assert.deepEqual(
    universe.versions('x').map((u) => `${u.repo} ${u.version}`),
    ['main 10', 'main 9', 'local 9', 'main 1'],
  );
  assert.deepEqual(
    universe.versions('x', 'local').map((u) => u.version),
    ['9'],
  );
  assert.deepEqual(
    universe.providers('v').map((u) => u.layer),
    ['y', 'z'],
  );
  assert.equal(universe.resolve({ wishes: [{ layer: 'x' }] }).ok, true);
});

test('a universe of several lists is the universe of all of them; a known list is not indexed again', () => {
  const main = Array.from({ length: 20_000 }, (_, i) =>
    unit(`x${i} 1`, { depends: `x${i + 1}`, provides: `v${i}` }),
  );
  let read = 0;
  const counted = main.map(({ provides = '', ...rest }) => ({
    ...rest,
    get provides() {
      read++;
      return provides;
    },
  }));
  const first = [...main.slice(0, 9), unit('x9')];
  const local = [unit('local/x3 2', { depends: 'v7' }), unit('x9'), unit('local/y', { provides: 'v7' })];
  const wishes = [{ layer: 'x0' }];
  const joined = joinUniverse([first, local]).resolve({ wishes });
  const whole = buildUniverse([...local, ...first]).resolve({ wishes });
  assert.ok(joined.ok && joined.units.some((s) => s.unit.repo === 'local'));
  assert.deepEqual({ ...joined, elapsedMs: 0 }, { ...whole, elapsedMs: 0 });
  assert.equal(joinUniverse([first, local]).size, 12);
  joinUniverse([counted]);
  assert.ok(read >= main.length, `${read} were read`);
  read = 0;
  for (let i = 0; i < 10; i++) joinUniverse([counted, [unit(`local/z ${i}`)]]);
  assert.equal(read, 0, 'and none again');
});

test('a preferred layer is taken before the first alternative, unless another is installed', () => {
  const units = [unit('a', { depends: 'usrmerge | usr-is-merged' }), unit('usrmerge'), unit('usr-is-merged')];
  const universe = buildUniverse(units, { preferredLayers: new Set(['usr-is-merged']) });
  const chosen = (installed: string[]) => {
    const result = universe.resolve({ wishes: [{ layer: 'a' }], installed: installed.map((l) => main(l)) });
    assert.ok(result.ok);
    return names(result).sort();
  };
  assert.deepEqual(chosen([]), ['main/a 1', 'main/usr-is-merged 1']);
  assert.deepEqual(chosen(['a', 'usrmerge']), ['main/a 1', 'main/usrmerge 1']);
});
