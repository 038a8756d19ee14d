/** What a person reads when a request cannot be satisfied: golden sentences. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { buildUniverse, type Explanation, type OfferedUnit, type ResolveRequest } from './index.ts';
import { unit } from './test-support.ts';

function refused(units: OfferedUnit[], request: ResolveRequest): Explanation {
  const result = buildUniverse(units).resolve(request);
  assert.equal(result.ok, false);
  return (result as { explanation: Explanation }).explanation;
}

const webServers = [
  unit('apache2 2.4', { provides: 'httpd', conflicts: 'httpd' }),
  unit('boa 0.94', { provides: 'httpd', conflicts: 'httpd' }),
];

test('two explicit layers that provide and conflict with the same virtual layer', () => {
  const explanation = refused(webServers, {
    wishes: [
      { repo: 'main', layer: 'apache2' },
      { repo: 'main', layer: 'boa' },
    ],
    installed: [{ repo: 'main', layer: 'apache2', version: '2.4' }],
  });
  assert.deepEqual(explanation, {
    summary: 'cannot add main/boa: it conflicts with main/apache2 (both provide httpd)',
    chain: [
      'main/apache2 is asked for',
      'main/boa is asked for',
      'main/apache2 2.4 conflicts with main/boa 0.94 (both provide httpd)',
    ],
    hint: 'remove one of them',
  });
});

test('a missing version, three relations away, past irrelevant layers', () => {
  const explanation = refused(
    [
      unit('foo 1.0', { depends: 'mid, irrelevant' }),
      unit('mid 3', { depends: 'irrelevant, deep (>= 1) | nothing' }),
      unit('deep 1', { depends: 'libbar (>= 2)' }),
      unit('irrelevant 1', { depends: 'libbar' }),
      unit('libbar 1.4'),
      unit('libbar 1.2'),
    ],
    { wishes: [{ repo: 'main', layer: 'foo' }] },
  );
  assert.deepEqual(explanation, {
    summary:
      'cannot add main/foo: no repository offers libbar (>= 2), which deep 1 depends on; newest offered is 1.4',
    chain: [
      'main/foo 1.0 depends on mid',
      'main/mid 3 depends on deep (>= 1) | nothing',
      'main/deep 1 depends on libbar (>= 2)',
      'no repository offers libbar (>= 2); newest offered is 1.4',
    ],
    hint: 'add a repository that offers libbar, or run `strata repo sync`',
  });
});

test('the direct cause is told before a farther one', () => {
  const explanation = refused(
    [
      unit('foo', { depends: 'far, gone' }),
      unit('far', { depends: 'farther' }),
      unit('farther', { depends: 'lost' }),
    ],
    { wishes: [{ layer: 'foo' }] },
  );
  assert.equal(explanation.summary, 'cannot add foo: no repository offers gone, which foo 1 depends on');
  assert.deepEqual(explanation.chain, ['main/foo 1 depends on gone', 'no repository offers gone']);
});

test('a conflict deep on both sides names who needs what', () => {
  const explanation = refused(
    [
      unit('app', { depends: 'liba' }),
      unit('liba', { conflicts: 'libb (<< 2)' }),
      unit('tool', { depends: 'libb' }),
      unit('libb 1.5'),
    ],
    {
      wishes: [{ layer: 'tool' }, { layer: 'app' }],
      installed: [
        { repo: 'main', layer: 'tool', version: '1' },
        { repo: 'main', layer: 'libb', version: '1.5' },
      ],
    },
  );
  assert.equal(
    explanation.summary,
    'cannot add app: it needs main/liba, which conflicts with main/libb, which tool needs (conflicts: libb (<< 2))',
  );
});

test('two needs for different versions of one layer', () => {
  const units = [
    unit('old', { depends: 'lib (<< 2)' }),
    unit('new', { depends: 'lib (>= 2)' }),
    unit('lib 1'),
    unit('lib 2'),
  ];
  const explanation = refused(units, { wishes: [{ layer: 'old' }, { layer: 'new' }] });
  assert.equal(
    explanation.summary,
    'cannot add new: it depends on lib (>= 2), but main/old depends on lib (<< 2)',
  );
  assert.equal(explanation.hint, 'remove one of them');
});

test('a hold is named, with the way out', () => {
  const explanation = refused([unit('new', { depends: 'lib (>= 2)' }), unit('lib 1'), unit('lib 2')], {
    wishes: [{ layer: 'lib' }, { layer: 'new' }],
    installed: [{ repo: 'main', layer: 'lib', version: '1', held: true }],
  });
  assert.equal(explanation.summary, 'cannot add new: it depends on lib (>= 2), but main/lib 1 is held');
  assert.equal(explanation.hint, 'unhold lib');
});

test('a held version that is gone, a malformed relation, a unit against its own need', () => {
  const gone = refused([unit('lib 2')], {
    wishes: [{ layer: 'lib' }],
    installed: [{ repo: 'main', layer: 'lib', version: '1', held: true }],
  });
  assert.equal(gone.summary, 'cannot keep main/lib 1: it is held, but no repository offers it any more');
  const malformed = refused([unit('bad', { depends: 'x (>= ' })], { wishes: [{ layer: 'bad' }] });
  assert.equal(malformed.summary, 'cannot add bad: the relations of bad 1 are malformed: "x (>= "');
  const badConflict = refused([unit('bad', { conflicts: '((' })], { wishes: [{ layer: 'bad' }] });
  assert.match(badConflict.summary, /^cannot add bad: the relations of main\/bad are malformed/);
  const self = refused([unit('odd', { depends: 'x', conflicts: 'x' }), unit('x')], {
    wishes: [{ layer: 'odd' }],
  });
  assert.equal(self.summary, 'cannot add odd: it needs main/x, with which it conflicts');
});

test('what is refused without a search: unknown layer, repository, version; virtual layer; another repository', () => {
  const units = [...webServers, unit('nginx 1.22'), unit('nginx 1.21'), unit('local/tool 1')];
  const ask = (request: { repo?: string; layer: string; version?: string }): string[] => {
    const { summary, hint } = refused(units, { wishes: [request] });
    return [summary, hint];
  };
  assert.deepEqual(ask({ repo: 'main', layer: 'ngnix' }), [
    'cannot add main/ngnix: main does not offer it',
    'did you mean nginx?',
  ]);
  assert.deepEqual(ask({ layer: 'zzzzzz' })[0], 'cannot add zzzzzz: no repository offers it');
  assert.match(ask({ repo: 'nowhere', layer: 'nginx' })[0]!, /there is no repository nowhere/);
  assert.equal(
    ask({ layer: 'nginx', version: '9' })[0],
    'cannot add nginx 9: that version is not offered; offered: 1.22, 1.21',
  );
  assert.deepEqual(ask({ layer: 'httpd' }), [
    'cannot add httpd: httpd is a virtual layer',
    'name one that provides it: apache2, boa',
  ]);
  assert.deepEqual(ask({ repo: 'main', layer: 'tool' }), [
    'cannot add main/tool: main does not offer it, but local does',
    'did you mean local/tool?',
  ]);
});

test('an impossible base is explained', () => {
  const explanation = refused([unit('shell', { essential: true, depends: 'libnone' }), unit('foo')], {
    wishes: [{ layer: 'foo' }],
  });
  assert.equal(explanation.summary, 'cannot add foo: no repository offers libnone, which shell 1 depends on');
  assert.deepEqual(explanation.chain, [
    'what is essential in main must be in, because a layer of main is',
    'shell is essential in main',
    'main/shell 1 depends on libnone',
    'no repository offers libnone',
  ]);
});
