/**
 * The typebox schemas of every request of the API: what fastify validates and OpenAPI shows. The compiler checks at
 * the end of the file that they say the same as the types of contract.ts. Only the daemon imports this.
 */
import { type Static, type TSchema, Type } from 'typebox';
import { LIMITS } from '../base/index.ts';
import type { Method, Requests } from './contract.ts';

/** Unknown fields are refused: a misspelt option must not be silently without effect. */
const STRICT = { additionalProperties: false } as const;

const name = Type.String({ minLength: 1, maxLength: LIMITS.objectNameChars });
/** An appliance, or a snapshot as NAME@SNAPSHOT. */
const place = Type.String({ minLength: 1, maxLength: 2 * LIMITS.objectNameChars + 1 });
const ttl = Type.Number({ minimum: 1 });
/** A layer as the user writes it: `nginx`, `main/nginx`, `=main/nginx=1.2`. */
const layerWord = Type.String({ minLength: 1, maxLength: 4 * LIMITS.objectNameChars });
const layerWords = Type.Array(layerWord, { maxItems: LIMITS.stackLayers });
const version = Type.String({ minLength: 1, maxLength: LIMITS.objectNameChars });
const path = Type.String({ minLength: 1, maxLength: LIMITS.pathBytes });
const relations = Type.String({ maxLength: 1 << 20 });
const patterns = Type.Array(Type.String({ minLength: 1, maxLength: 1024 }), { maxItems: 10_000 });
const cache = Type.Optional(Type.Union([Type.Literal('shared'), Type.Literal('exact')]));
const kind = Type.Union([
  Type.Literal('dir'),
  Type.Literal('apt'),
  Type.Literal('deb'),
  Type.Literal('rpm'),
  Type.Literal('http'),
  Type.Literal('s3'),
  Type.Literal('oci'),
]);

const rules = {
  exclude: Type.Optional(Type.Array(path, { maxItems: LIMITS.policyRules })),
  substitutes: Type.Optional(Type.Array(Type.Object({ path, file: path }, STRICT), { maxItems: 1000 })),
};
const policy = {
  ...rules,
  grafts: Type.Optional(
    Type.Array(Type.Object({ path, appliance: name, from: path }, STRICT), { maxItems: 1000 }),
  ),
  policies: Type.Optional(Type.Array(name, { maxItems: 1000 })),
  secrets: Type.Optional(Type.Boolean()),
};
const limit = Type.Optional(
  Type.Union([Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER }), Type.Literal('none')]),
);
const quota = { quotaBytes: limit, quotaInodes: limit };
const nothing = Type.Object({}, STRICT);
const named = Type.Object({ name }, STRICT);
const layersOf = Type.Object({ name, layers: layerWords }, STRICT);

const scanner = {
  with: Type.Optional(Type.Union([Type.Literal('clamav'), Type.Literal('yara'), Type.Literal('command')])),
  socket: Type.Optional(path),
  database: Type.Optional(path),
  rules: Type.Optional(Type.Array(path, { maxItems: 1000 })),
  command: Type.Optional(Type.String({ minLength: 1, maxLength: 65_536 })),
  maxBytes: Type.Optional(Type.Integer({ minimum: 1 })),
  timeoutMs: Type.Optional(Type.Integer({ minimum: 1 })),
};

export const REQUEST_SCHEMAS = {
  repoAdd: Type.Object(
    {
      name,
      source: Type.String({ minLength: 1, maxLength: LIMITS.pathBytes }),
      kind: Type.Optional(kind),
      allow: Type.Optional(patterns),
      deny: Type.Optional(patterns),
      keyFile: Type.Optional(path),
    },
    STRICT,
  ),
  repoList: nothing,
  repoSync: named,
  repoRemove: named,
  repoIndex: named,
  layerImport: Type.Object(
    { files: Type.Array(path, { minItems: 1, maxItems: 100_000 }), repo: name },
    STRICT,
  ),
  layerBuild: Type.Object(
    {
      dir: path,
      repo: name,
      name,
      version,
      depends: Type.Optional(relations),
      preDepends: Type.Optional(relations),
      conflicts: Type.Optional(relations),
      provides: Type.Optional(relations),
      replaces: Type.Optional(relations),
      scripts: Type.Optional(path),
      infer: Type.Optional(Type.Boolean()),
    },
    STRICT,
  ),
  layerList: Type.Object(
    {
      repo: Type.Optional(name),
      available: Type.Optional(Type.Boolean()),
      match: Type.Optional(Type.String({ maxLength: 1024 })),
    },
    STRICT,
  ),
  layerShow: Type.Object({ repo: name, layer: name, version: Type.Optional(version) }, STRICT),
  layerVerify: Type.Object({ repo: Type.Optional(name), layer: Type.Optional(name) }, STRICT),
  layerRemove: Type.Object({ repo: name, layer: name, version }, STRICT),
  templateCreate: Type.Object(
    {
      name,
      layers: layerWords,
      from: Type.Array(name, { maxItems: 1024 }),
      recommends: Type.Optional(Type.Boolean()),
      configure: Type.Optional(Type.Boolean()),
    },
    STRICT,
  ),
  templateAdd: layersOf,
  templateRemove: layersOf,
  templateHold: Type.Object({ name, layer: layerWord, held: Type.Boolean() }, STRICT),
  templateShow: named,
  templateList: nothing,
  templateDelete: named,
  templateFreeze: Type.Object({ name, from: name }, STRICT),
  update: Type.Object(
    {
      templates: Type.Optional(Type.Array(name, { maxItems: 100_000 })),
      dryRun: Type.Optional(Type.Boolean()),
    },
    STRICT,
  ),
  rollback: Type.Object({ template: name, generation: Type.Optional(Type.Integer({ minimum: 1 })) }, STRICT),
  create: Type.Object(
    {
      name,
      template: name,
      mac: Type.Optional(Type.String({ minLength: 1, maxLength: 32 })),
      count: Type.Optional(Type.Integer({ minimum: 1, maximum: LIMITS.createCount })),
      layers: Type.Optional(layerWords),
      ...quota,
      ttlSeconds: Type.Optional(ttl),
    },
    STRICT,
  ),
  clone: Type.Object(
    {
      source: place,
      name,
      ttlSeconds: Type.Optional(ttl),
      path: Type.Optional(path),
      mode: Type.Optional(Type.Union([Type.Literal('lazy'), Type.Literal('async'), Type.Literal('sync')])),
      ...policy,
      ...quota,
    },
    STRICT,
  ),
  importDir: Type.Object(
    {
      source: path,
      name,
      how: Type.Optional(Type.Union([Type.Literal('copy'), Type.Literal('link'), Type.Literal('move')])),
      template: Type.Optional(name),
      mac: Type.Optional(Type.String({ minLength: 1, maxLength: 32 })),
      ...quota,
    },
    STRICT,
  ),
  quotaSet: Type.Object({ name, ...quota }, STRICT),
  quotaShow: named,
  list: Type.Object({ sizes: Type.Optional(Type.Boolean()) }, STRICT),
  show: named,
  delete: Type.Object({ names: Type.Array(place, { minItems: 1, maxItems: LIMITS.createCount }) }, STRICT),
  snapshot: Type.Object({ name, snapshot: Type.Optional(name) }, STRICT),
  snapshots: named,
  restore: Type.Object({ name, snapshot: name }, STRICT),
  merge: Type.Object(
    {
      name,
      into: name,
      prefer: Type.Optional(Type.Union([Type.Literal('ours'), Type.Literal('theirs')])),
      ours: Type.Optional(Type.Array(path, { maxItems: 100_000 })),
      theirs: Type.Optional(Type.Array(path, { maxItems: 100_000 })),
      dryRun: Type.Optional(Type.Boolean()),
    },
    STRICT,
  ),
  promote: named,
  tree: Type.Object({ name: Type.Optional(name) }, STRICT),
  ttl: Type.Object({ name, ttlSeconds: Type.Union([ttl, Type.Null()]) }, STRICT),
  expire: Type.Object({ dryRun: Type.Optional(Type.Boolean()) }, STRICT),
  mount: Type.Object(
    {
      name,
      dir: path,
      door: Type.Optional(Type.Union([Type.Literal('fuse'), Type.Literal('sealed')])),
      readOnly: Type.Optional(Type.Boolean()),
      cache,
    },
    STRICT,
  ),
  umount: Type.Object({ target: path, force: Type.Optional(Type.Boolean()) }, STRICT),
  prepareRun: Type.Object(
    {
      name,
      command: Type.Array(Type.String({ maxLength: 131_072 }), { maxItems: 10_000 }),
      network: Type.Union([Type.Literal('host'), Type.Literal('none')]),
      terminal: Type.Boolean(),
      env: Type.Optional(Type.Record(Type.String(), Type.String())),
      cache,
    },
    STRICT,
  ),
  finishRun: Type.Object({ runId: Type.String({ minLength: 1, maxLength: 512 }) }, STRICT),
  diff: Type.Object({ name: place, other: Type.Optional(place), path: Type.Optional(path) }, STRICT),
  revert: Type.Object({ name, paths: Type.Array(path, { minItems: 1, maxItems: 100_000 }) }, STRICT),
  reset: Type.Object({ name, keep: Type.Array(path, { maxItems: 100_000 }) }, STRICT),
  why: Type.Object({ name, what: path }, STRICT),
  policyCreate: Type.Object({ name, from: Type.Optional(path), ...rules }, STRICT),
  policyList: nothing,
  policyShow: Type.Object({ name }, STRICT),
  policyDelete: Type.Object({ name }, STRICT),
  policyApply: Type.Object(
    {
      name,
      ...policy,
    },
    STRICT,
  ),
  policyRules: Type.Object({ name }, STRICT),
  policyMark: Type.Object(
    { name, paths: Type.Array(path, { minItems: 1, maxItems: 10_000 }), marked: Type.Boolean() },
    STRICT,
  ),
  policyLog: Type.Object({ name }, STRICT),
  status: nothing,
  gc: Type.Object(
    { keep: Type.Optional(Type.Integer({ minimum: 1 })), dryRun: Type.Optional(Type.Boolean()) },
    STRICT,
  ),
  fsck: Type.Object({ deep: Type.Optional(Type.Boolean()), repair: Type.Optional(Type.Boolean()) }, STRICT),
  scan: Type.Object(
    {
      ...scanner,
      names: Type.Optional(Type.Array(name, { maxItems: LIMITS.createCount })),
      fresh: Type.Optional(Type.Boolean()),
      quarantine: Type.Optional(Type.Boolean()),
    },
    STRICT,
  ),
  scanOnOpen: Type.Object(
    {
      ...scanner,
      names: Type.Array(name, { minItems: 1, maxItems: LIMITS.createCount }),
      on: Type.Boolean(),
    },
    STRICT,
  ),
  scanState: nothing,
  quarantineRelease: Type.Object({ digest: Type.String({ minLength: 8, maxLength: 64 }) }, STRICT),
  rebuildCatalog: nothing,
  ping: nothing,
  jobs: nothing,
  stop: Type.Object(
    { force: Type.Optional(Type.Boolean()), keepMounts: Type.Optional(Type.Boolean()) },
    STRICT,
  ),
} satisfies Record<Method, TSchema>;

type Schemas = typeof REQUEST_SCHEMAS;
/** Does not compile when a schema accepts what the contract's type does not, or refuses what it allows. */
type Agrees = {
  [M in Method]: [Static<Schemas[M]>] extends [Requests[M]]
    ? [Requests[M]] extends [Static<Schemas[M]>]
      ? true
      : ['schema is too strict for', M]
    : [object] extends [Static<Schemas[M]>]
      ? true
      : ['schema is too loose for', M];
};
type Holds<T extends true> = T;
export type RequestSchemasAgree = Holds<Agrees[Method]>;
