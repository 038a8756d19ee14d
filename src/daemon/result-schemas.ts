/**
 * The typebox schemas of every result of the API, for OpenAPI. They are not used to serialise (a result is sent as it
 * is); the compiler checks at the end of the file that every result the contract promises fits its schema.
 */
import { type Static, type TSchema, Type } from 'typebox';
import type { Method, Result } from './contract.ts';

const text = Type.String();
const count = Type.Number();
const nothing = Type.Object({});
const texts = Type.Array(text);

const repository = {
  name: text,
  kind: text,
  source: text,
  allow: texts,
  deny: texts,
  keyFile: Type.Optional(text),
  units: count,
};
const unit = Type.Object({ repo: text, layer: text, version: text });
const ldfLine = Type.Object({ repo: text, layer: text, version: text, held: Type.Boolean() });
const templateFields = {
  name: text,
  generation: count,
  explicit: Type.Array(ldfLine),
  implicit: Type.Array(ldfLine),
  refs: texts,
  units: count,
  ldf: text,
  appliances: count,
};
const template = Type.Object(templateFields);
const appliance = Type.Object({
  name: text,
  mac: text,
  template: text,
  mounts: texts,
  generation: count,
  held_back: Type.Union([text, Type.Null()]),
  expires: Type.Optional(text),
  created_at: Type.Optional(text),
  parent: Type.Optional(Type.Union([text, Type.Null()])),
  snapshots: Type.Optional(count),
  private_bytes: Type.Optional(count),
  exclusive_bytes: Type.Optional(count),
  shared_bytes: Type.Optional(count),
  shared_with: Type.Optional(
    Type.Array(Type.Object({ layer: text, bytes: count, count, appliances: texts })),
  ),
  layers: Type.Optional(count),
  frozen_layers: Type.Optional(count),
  merging: Type.Optional(Type.Object({ done: count, total: count })),
  ldf: Type.Optional(text),
  root: Type.Optional(text),
});
const quota = Type.Object({
  name: text,
  quota_bytes: Type.Union([count, Type.Null()]),
  quota_inodes: Type.Union([count, Type.Null()]),
  used_bytes: count,
  used_inodes: count,
});
const policy = Type.Object({
  name: text,
  offered: Type.Boolean(),
  rules: count,
  substitutes: count,
  text,
});
const policyState = Type.Object({
  name: text,
  rules: Type.Array(Type.Object({ pattern: text, from: text })),
  layers: count,
});
const update = Type.Object({
  templates: Type.Array(
    Type.Object({
      name: text,
      from: count,
      to: count,
      changes: Type.Array(
        Type.Object({
          layer: text,
          from: Type.Union([text, Type.Null()]),
          to: Type.Union([text, Type.Null()]),
        }),
      ),
      held_back: Type.Optional(text),
    }),
  ),
  appliances: Type.Object({
    updated: count,
    held_back: Type.Array(Type.Object({ name: text, reason: text })),
  }),
  elapsed_ms: count,
});
const daemon = Type.Object({
  pid: count,
  version: text,
  build: text,
  api: count,
  root: text,
  uptime_ms: count,
});
const progress = Type.Object({
  phase: text,
  message: Type.Optional(text),
  done: Type.Optional(count),
  total: Type.Optional(count),
  doneBytes: Type.Optional(count),
  totalBytes: Type.Optional(count),
});

const change = Type.Union([
  Type.Literal('added'),
  Type.Literal('changed'),
  Type.Literal('deleted'),
  Type.Literal('metadata'),
]);

const scanProblems = Type.Array(Type.Object({ holder: text, path: text, reason: text }));

export const RESULT_SCHEMAS = {
  repoAdd: Type.Object({ ...repository, made_source: Type.Boolean() }),
  repoList: Type.Array(Type.Object({ ...repository, local: count })),
  repoSync: Type.Object({ name: text, units: count, added: count, removed: count }),
  repoRemove: nothing,
  repoIndex: Type.Object({ name: text, units: count }),
  layerImport: Type.Object({ units: Type.Array(unit) }),
  layerBuild: unit,
  layerList: Type.Object({
    layers: Type.Array(
      Type.Object({ repo: text, layer: text, version: text, local: Type.Boolean(), description: text }),
    ),
  }),
  layerShow: Type.Object({
    repo: text,
    local: Type.Boolean(),
    versions: texts,
    metadata: Type.Object({ layer: text, version: text, category: text }),
    files: Type.Optional(count),
    bytes: Type.Optional(count),
  }),
  layerVerify: Type.Object({
    checked: count,
    problems: Type.Array(Type.Object({ unit: text, path: text, problem: text })),
  }),
  layerRemove: nothing,
  templateCreate: Type.Object({
    ...templateFields,
    elapsed_ms: count,
    timings: Type.Object({ resolve_ms: count, mirror_ms: count, compose_ms: count, configure_ms: count }),
  }),
  templateAdd: template,
  templateRemove: template,
  templateHold: template,
  templateShow: template,
  templateList: Type.Object({
    templates: Type.Array(Type.Object({ name: text, generation: count, layers: count, appliances: count })),
  }),
  templateDelete: nothing,
  templateFreeze: template,
  update,
  rollback: update,
  create: Type.Object({
    appliances: Type.Array(Type.Object({ name: text, mac: text, template: text })),
    elapsed_ms: count,
  }),
  clone: Type.Object({
    name: text,
    mac: text,
    template: text,
    source: text,
    layers: count,
    elapsed_ms: count,
  }),
  importDir: Type.Object({
    name: text,
    mac: text,
    template: text,
    source: text,
    entries: count,
    bytes: count,
    left_out: texts,
    elapsed_ms: count,
  }),
  quotaSet: quota,
  quotaShow: quota,
  list: Type.Object({ appliances: Type.Array(appliance) }),
  show: appliance,
  delete: Type.Object({ deleted: texts }),
  snapshot: Type.Object({ name: text, snapshot: text, created_at: text, layers: count }),
  snapshots: Type.Object({
    snapshots: Type.Array(Type.Object({ name: text, created_at: text, layers: count })),
  }),
  restore: Type.Object({ name: text, snapshot: text, created_at: text }),
  merge: Type.Object({
    name: text,
    into: text,
    merged: Type.Boolean(),
    changes: Type.Array(Type.Object({ path: text, change })),
    conflicts: Type.Array(Type.Object({ path: text, kind: text, taken: Type.Union([text, Type.Null()]) })),
    elapsed_ms: count,
  }),
  promote: Type.Object({ name: text, former_parent: text, parent: Type.Union([text, Type.Null()]) }),
  tree: Type.Object({
    appliances: Type.Array(
      Type.Object({
        name: text,
        template: text,
        depth: count,
        parent: Type.Union([text, Type.Null()]),
        deleted_parent: Type.Union([text, Type.Null()]),
        created_at: text,
        expires: Type.Union([text, Type.Null()]),
        mounts: texts,
        snapshots: Type.Array(Type.Object({ name: text, created_at: text })),
      }),
    ),
  }),
  ttl: Type.Object({ name: text, expires: Type.Union([text, Type.Null()]) }),
  expire: Type.Object({
    expired: texts,
    kept: Type.Array(Type.Object({ name: text, reason: text })),
    next: Type.Union([text, Type.Null()]),
  }),
  mount: Type.Object({ name: text, dir: text }),
  umount: Type.Object({ unmounted: texts }),
  prepareRun: Type.Object({ argv: texts, runId: text, env: Type.Record(text, text) }),
  finishRun: nothing,
  diff: Type.Object({
    entries: Type.Array(
      Type.Object({
        path: text,
        change,
        layer: Type.Union([text, Type.Null()]),
        base_updated: Type.Boolean(),
      }),
    ),
    beyond: Type.Optional(Type.Object({ count, first: text })),
  }),
  revert: Type.Object({ reverted: texts }),
  reset: Type.Object({ name: text, kept: texts }),
  why: Type.Object({
    path: Type.Optional(text),
    layer: Type.Optional(text),
    unit: Type.Union([text, Type.Null()]),
    private: Type.Boolean(),
    chain: texts,
  }),
  policyCreate: policy,
  policyList: Type.Object({ policies: Type.Array(policy) }),
  policyShow: policy,
  policyDelete: nothing,
  policyApply: policyState,
  policyRules: policyState,
  policyMark: Type.Object({ name: text, paths: texts }),
  policyLog: Type.Object({
    denials: Type.Array(
      Type.Object({
        path: text,
        rule: text,
        count,
        first: text,
        last: text,
        uid: count,
        pid: count,
      }),
    ),
    suppressed: count,
  }),
  status: Type.Object({
    appliances: count,
    templates: count,
    mounts: count,
    data_plane: Type.Object({ pid: Type.Union([count, Type.Null()]), memory_bytes: count }),
    root: text,
    notes: texts,
    daemon,
  }),
  gc: Type.Object({
    dry_run: Type.Boolean(),
    keep: count,
    removed: Type.Array(Type.Object({ kind: text, count, bytes: count })),
    count,
    bytes: count,
    items: Type.Array(Type.Object({ kind: text, name: text })),
    notes: texts,
    longest_hold_ms: count,
    elapsed_ms: count,
  }),
  fsck: Type.Object({
    checked: Type.Object({
      repositories: count,
      units: count,
      generations: count,
      appliances: count,
      mounts: count,
    }),
    problems: Type.Array(
      Type.Object({ object: text, problem: text, remedy: text, severity: text, repaired: Type.Boolean() }),
    ),
    clean: Type.Boolean(),
    elapsed_ms: count,
  }),
  scan: Type.Object({
    scanner: Type.Object({ kind: text, version: text }),
    appliances: count,
    layers: count,
    files: count,
    scanned: count,
    cached: count,
    bytes_read: count,
    infected: Type.Array(
      Type.Object({
        digest: text,
        name: text,
        verdict: text,
        bytes: count,
        quarantined: Type.Boolean(),
        places: Type.Array(Type.Object({ appliance: text, path: text, layer: text, shown: Type.Boolean() })),
        place_count: count,
      }),
    ),
    infected_count: count,
    failed: scanProblems,
    failed_count: count,
    skipped: scanProblems,
    skipped_count: count,
    marked: count,
    still_shown: Type.Array(Type.Object({ name: text, dir: text })),
    elapsed_ms: count,
  }),
  scanOnOpen: Type.Object({ names: texts, on: Type.Boolean() }),
  scanState: Type.Object({
    on_open: Type.Array(Type.Object({ name: text, scanner: text })),
    quarantine: Type.Array(Type.Object({ digest: text, name: text, scanner: text, since: text })),
  }),
  quarantineRelease: Type.Object({ released: text }),
  rebuildCatalog: nothing,
  ping: daemon,
  jobs: Type.Object({
    jobs: Type.Array(
      Type.Object({
        id: count,
        method: text,
        target: text,
        state: Type.Union([Type.Literal('running'), Type.Literal('done'), Type.Literal('failed')]),
        started_at: text,
        elapsed_ms: count,
        progress: Type.Union([progress, Type.Null()]),
        error: Type.Union([Type.Object({ code: text, message: text }), Type.Null()]),
      }),
    ),
  }),
  stop: Type.Object({ pid: count, unmounted: texts, busy: texts }),
} satisfies Record<Method, TSchema>;

/** The body of every answer that is not a success. */
export const ERROR_SCHEMA = Type.Object({
  error: Type.Object({
    code: text,
    message: text,
    hint: Type.Optional(text),
    data: Type.Optional(Type.Record(text, Type.Unknown())),
  }),
});

type Schemas = typeof RESULT_SCHEMAS;
/** Does not compile when the contract promises a result that its schema does not describe. */
type Agrees = {
  [M in Method]: [Result<M>] extends [Static<Schemas[M]>] ? true : ['schema does not describe', M];
};
type Holds<T extends true> = T;
export type ResultSchemasAgree = Holds<Agrees[Method]>;
