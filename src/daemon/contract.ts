/**
 * The HTTP API of stratad, as daemon and client share it: one table of methods (name, verb, path, whether it reports
 * progress), the types of their requests and results (those of the Fleet), and where the daemon's files are.
 * The run-time schemas stand in schemas.ts, which the compiler holds to these types; this file stays cheap to import,
 * because every start of the command line loads it.
 */
import { join } from 'node:path';
import type { ErrorCode, ProgressEvent } from '../base/index.ts';
import type { Fleet } from '../fleet/contract.ts';

export type { FamilyMember, PolicyGraft, PolicySource } from '../fleet/contract.ts';
export { OFFERED_POLICIES } from '../fleet/contract.ts';
export type { RepositoryKind } from '../repository/contract.ts';
export type { DiffEntry } from '../vlfs/contract.ts';
export { buildId, packageVersion } from './build-id.ts';

/** Raised when a request or a result changes its meaning; client and daemon must agree. */
export const API_VERSION = 1;
/** Response headers that carry the daemon's API version and build. */
export const API_HEADER = 'strata-api';
export const BUILD_HEADER = 'strata-build';
/** Asks for progress: the answer is then one JSON value a line, see StreamLine. */
export const STREAM_TYPE = 'application/x-ndjson';
/** The module that is stratad. */
export const DAEMON_MAIN = join(import.meta.dirname, 'main.ts');
export const DEFAULT_ROOT = '/var/lib/strata';

export interface DaemonPaths {
  runDir: string;
  socket: string;
  lock: string;
  pid: string;
  log: string;
}

/** Where the daemon of a state root keeps its socket, lock, process id and log. */
export function daemonPaths(root: string): DaemonPaths {
  const runDir = join(root, 'run');
  return {
    runDir,
    socket: join(runDir, 'stratad.sock'),
    lock: join(runDir, 'stratad.lock'),
    pid: join(runDir, 'stratad.pid'),
    log: join(runDir, 'stratad.log'),
  };
}

export interface DaemonInfo {
  pid: number;
  version: string;
  build: string;
  api: number;
  root: string;
  uptime_ms: number;
}

export interface JobInfo {
  id: number;
  method: string;
  /** What it works on, e.g. the name of a template. */
  target: string;
  state: 'running' | 'done' | 'failed';
  started_at: string;
  elapsed_ms: number;
  progress: ProgressEvent | null;
  error: { code: ErrorCode; message: string } | null;
}

export interface StopResult {
  pid: number;
  unmounted: string[];
  /** Mounts that were in use; strata-fs goes on serving them. */
  busy: string[];
}

/** What is wrong, as JSON: of an answer's body and of the command line with --json. */
export interface ErrorBody {
  error: { code: ErrorCode; message: string; hint?: string; data?: Record<string, unknown> };
}

/** One line of a streamed answer; the last one is a result or an error. */
export type StreamLine<R = unknown> = { progress: ProgressEvent } | { result: R } | ErrorBody;

type Nothing = Record<string, never>;
type First<M extends keyof Fleet> = Parameters<Fleet[M]>[0];

/** The request of every method. */
export interface Requests {
  repoAdd: First<'repoAdd'>;
  repoList: Nothing;
  repoSync: { name: string };
  repoRemove: { name: string };
  repoIndex: { name: string };
  layerImport: First<'layerImport'>;
  layerBuild: First<'layerBuild'>;
  layerList: First<'layerList'>;
  layerShow: First<'layerShow'>;
  layerVerify: First<'layerVerify'>;
  layerRemove: First<'layerRemove'>;
  templateCreate: First<'templateCreate'>;
  templateAdd: First<'templateAdd'>;
  templateRemove: First<'templateRemove'>;
  templateHold: First<'templateHold'>;
  templateShow: { name: string };
  templateList: Nothing;
  templateDelete: { name: string };
  templateFreeze: First<'templateFreeze'>;
  update: First<'update'>;
  rollback: First<'rollback'>;
  create: First<'create'>;
  clone: First<'clone'>;
  importDir: First<'importDir'>;
  quotaSet: First<'quotaSet'>;
  quotaShow: { name: string };
  list: NonNullable<First<'list'>>;
  show: { name: string };
  delete: { names: string[] };
  snapshot: First<'snapshot'>;
  snapshots: { name: string };
  restore: First<'restore'>;
  merge: First<'merge'>;
  promote: { name: string };
  tree: First<'tree'>;
  ttl: First<'ttl'>;
  expire: First<'expire'>;
  mount: First<'mount'>;
  umount: First<'umount'>;
  prepareRun: First<'prepareRun'>;
  finishRun: { runId: string };
  diff: First<'diff'>;
  revert: First<'revert'>;
  reset: First<'reset'>;
  why: First<'why'>;
  policyCreate: First<'policyCreate'>;
  policyList: Nothing;
  policyShow: { name: string };
  policyDelete: { name: string };
  policyApply: First<'policyApply'>;
  policyRules: { name: string };
  policyMark: First<'policyMark'>;
  policyLog: { name: string };
  status: Nothing;
  gc: First<'gc'>;
  fsck: First<'fsck'>;
  scan: First<'scan'>;
  scanOnOpen: First<'scanOnOpen'>;
  scanState: Nothing;
  quarantineRelease: { digest: string };
  rebuildCatalog: Nothing;
  ping: Nothing;
  jobs: Nothing;
  stop: { force?: boolean; keepMounts?: boolean };
}

export type Method = keyof Requests;
export type Request<M extends Method> = Requests[M];

type FleetResult<M extends keyof Fleet> =
  Awaited<ReturnType<Fleet[M]>> extends infer R ? ([undefined] extends [R] ? Nothing : R) : never;

/** The result of every method; a Fleet method without a result answers `{}`. */
export type Result<M extends Method> = M extends 'ping'
  ? DaemonInfo
  : M extends 'jobs'
    ? { jobs: JobInfo[] }
    : M extends 'stop'
      ? StopResult
      : M extends 'status'
        ? FleetResult<'status'> & { daemon: DaemonInfo }
        : M extends keyof Fleet
          ? FleetResult<M>
          : never;

export interface RouteSpec {
  verb: 'GET' | 'POST' | 'DELETE';
  /** `:field` takes a field of the request; the others travel in the query (GET, DELETE) or the JSON body (POST). */
  path: string;
  /** Reports progress when the client accepts STREAM_TYPE. */
  stream?: boolean;
  /** Changes nothing: may be repeated when the connection broke. */
  safe?: boolean;
  /** One sentence for OpenAPI. */
  summary: string;
}

export const ROUTES: { readonly [M in Method]: RouteSpec } = {
  repoAdd: { verb: 'POST', path: '/v1/repos', stream: true, summary: 'Adds a layer repository.' },
  repoList: { verb: 'GET', path: '/v1/repos', safe: true, summary: 'Lists the repositories.' },
  repoSync: {
    verb: 'POST',
    path: '/v1/repos/:name/sync',
    stream: true,
    summary: 'Reads the source of a repository anew.',
  },
  repoRemove: { verb: 'DELETE', path: '/v1/repos/:name', summary: 'Removes a repository that nothing uses.' },
  repoIndex: {
    verb: 'POST',
    path: '/v1/repos/:name/index',
    stream: true,
    summary: 'Rebuilds the Layers database of a repository.',
  },
  layerImport: {
    verb: 'POST',
    path: '/v1/repos/:repo/import',
    stream: true,
    summary: 'Imports packages and archives on this host as layer units.',
  },
  layerBuild: {
    verb: 'POST',
    path: '/v1/repos/:repo/build',
    stream: true,
    summary: 'Builds a layer unit from a directory tree.',
  },
  layerList: { verb: 'GET', path: '/v1/layers', safe: true, summary: 'Lists layer units.' },
  layerShow: {
    verb: 'GET',
    path: '/v1/layers/:repo/:layer',
    safe: true,
    summary: 'The metadata and versions of one layer.',
  },
  layerVerify: {
    verb: 'POST',
    path: '/v1/layers/verify',
    stream: true,
    safe: true,
    summary: 'Compares units on disk with their indexes.',
  },
  layerRemove: {
    verb: 'DELETE',
    path: '/v1/layers/:repo/:layer/:version',
    summary: 'Deletes one local unit that nothing uses.',
  },
  templateCreate: {
    verb: 'POST',
    path: '/v1/templates',
    stream: true,
    summary: 'Resolves, composes and configures a template.',
  },
  templateAdd: {
    verb: 'POST',
    path: '/v1/templates/:name/add',
    stream: true,
    summary: 'Adds layers to a template.',
  },
  templateRemove: {
    verb: 'POST',
    path: '/v1/templates/:name/remove',
    stream: true,
    summary: 'Removes layers from a template.',
  },
  templateHold: {
    verb: 'POST',
    path: '/v1/templates/:name/hold',
    summary: 'Holds the version of a layer, or lets it go.',
  },
  templateShow: {
    verb: 'GET',
    path: '/v1/templates/:name',
    safe: true,
    summary: 'One template and its LDF.',
  },
  templateList: { verb: 'GET', path: '/v1/templates', safe: true, summary: 'Lists the templates.' },
  templateDelete: {
    verb: 'DELETE',
    path: '/v1/templates/:name',
    summary: 'Deletes a template that nothing uses.',
  },
  templateFreeze: {
    verb: 'POST',
    path: '/v1/templates/:name/freeze',
    stream: true,
    summary: "Makes an appliance's private layer the template's config layer.",
  },
  update: {
    verb: 'POST',
    path: '/v1/update',
    stream: true,
    summary: 'Brings templates and their appliances to the newest units.',
  },
  rollback: {
    verb: 'POST',
    path: '/v1/templates/:template/rollback',
    stream: true,
    summary: 'Returns a template to an earlier generation.',
  },
  create: { verb: 'POST', path: '/v1/appliances', stream: true, summary: 'Provisions appliances.' },
  clone: {
    verb: 'POST',
    path: '/v1/appliances/:source/clone',
    stream: true,
    summary: 'Makes an appliance from what another is at one instant.',
  },
  importDir: {
    verb: 'POST',
    path: '/v1/imports',
    stream: true,
    summary: 'Makes an appliance of an existing root file system.',
  },
  quotaSet: {
    verb: 'POST',
    path: '/v1/appliances/:name/quota',
    summary: 'Limits how much an appliance may take.',
  },
  quotaShow: {
    verb: 'GET',
    path: '/v1/appliances/:name/quota',
    safe: true,
    summary: 'How much an appliance may take, and how much it does.',
  },
  list: { verb: 'GET', path: '/v1/appliances', safe: true, summary: 'Lists the appliances.' },
  show: { verb: 'GET', path: '/v1/appliances/:name', safe: true, summary: 'One appliance.' },
  delete: { verb: 'POST', path: '/v1/appliances/delete', summary: 'Deletes appliances and snapshots.' },
  snapshot: {
    verb: 'POST',
    path: '/v1/appliances/:name/snapshots',
    summary: 'Keeps what an appliance is now under a name.',
  },
  snapshots: {
    verb: 'GET',
    path: '/v1/appliances/:name/snapshots',
    safe: true,
    summary: 'The snapshots of an appliance.',
  },
  restore: {
    verb: 'POST',
    path: '/v1/appliances/:name/restore',
    summary: 'Makes an appliance what it was at a snapshot.',
  },
  merge: {
    verb: 'POST',
    path: '/v1/appliances/:name/merge',
    stream: true,
    summary: 'Brings what one appliance changed into another, three-way.',
  },
  promote: {
    verb: 'POST',
    path: '/v1/appliances/:name/promote',
    summary: 'Puts a clone into the place of its parent.',
  },
  tree: {
    verb: 'GET',
    path: '/v1/tree',
    safe: true,
    summary: 'Appliances with their clones and snapshots, in tree order.',
  },
  ttl: { verb: 'POST', path: '/v1/appliances/:name/ttl', summary: 'Sets when an appliance ends.' },
  expire: { verb: 'POST', path: '/v1/expire', summary: 'Deletes the appliances whose time is over.' },
  mount: { verb: 'POST', path: '/v1/appliances/:name/mount', summary: 'Mounts an appliance.' },
  umount: { verb: 'POST', path: '/v1/umount', summary: 'Unmounts by appliance or directory.' },
  prepareRun: {
    verb: 'POST',
    path: '/v1/appliances/:name/run',
    summary: 'Prepares a container; the client executes the given argv.',
  },
  finishRun: { verb: 'DELETE', path: '/v1/runs/:runId', summary: 'Releases what a container held.' },
  diff: {
    verb: 'GET',
    path: '/v1/appliances/:name/diff',
    safe: true,
    summary: 'What an appliance changed in its layers, or what tells two appliances apart.',
  },
  revert: {
    verb: 'POST',
    path: '/v1/appliances/:name/revert',
    summary: 'Shows the shared originals of changed or deleted paths again.',
  },
  reset: {
    verb: 'POST',
    path: '/v1/appliances/:name/reset',
    summary: 'Gives an appliance a fresh private layer.',
  },
  why: {
    verb: 'GET',
    path: '/v1/appliances/:name/why',
    safe: true,
    summary: 'Which unit a path comes from, or why a layer is in.',
  },
  policyCreate: { verb: 'POST', path: '/v1/policies', summary: 'Makes a policy.' },
  policyList: { verb: 'GET', path: '/v1/policies', safe: true, summary: 'Lists the policies.' },
  policyShow: { verb: 'GET', path: '/v1/policies/:name', safe: true, summary: 'One policy and its text.' },
  policyDelete: { verb: 'DELETE', path: '/v1/policies/:name', summary: 'Deletes a policy.' },
  policyApply: {
    verb: 'POST',
    path: '/v1/appliances/:name/policy',
    summary: 'Makes the policy of an appliance stricter.',
  },
  policyRules: {
    verb: 'GET',
    path: '/v1/appliances/:name/policy',
    safe: true,
    summary: 'The policy of an appliance.',
  },
  policyMark: {
    verb: 'POST',
    path: '/v1/appliances/:name/mark',
    summary: 'Marks what no clone may get, or takes the mark away.',
  },
  policyLog: {
    verb: 'GET',
    path: '/v1/appliances/:name/denials',
    safe: true,
    summary: 'What the policy of an appliance denied.',
  },
  status: { verb: 'GET', path: '/v1/status', safe: true, summary: 'Counts, processes and notes.' },
  gc: { verb: 'POST', path: '/v1/gc', stream: true, summary: 'Removes what nothing uses any more.' },
  fsck: {
    verb: 'POST',
    path: '/v1/fsck',
    stream: true,
    summary: 'Checks everything that the files must keep true, and mends what is safe to mend.',
  },
  scan: {
    verb: 'POST',
    path: '/v1/scan',
    stream: true,
    summary:
      'Judges every distinct content of appliances once, and may put what is infected into quarantine.',
  },
  scanOnOpen: {
    verb: 'POST',
    path: '/v1/scan/on-open',
    summary: 'Lets a scanner judge the contents of appliances before they are opened, or no more.',
  },
  scanState: {
    verb: 'GET',
    path: '/v1/scan',
    safe: true,
    summary: 'What is in quarantine, and which appliances are checked at open.',
  },
  quarantineRelease: {
    verb: 'DELETE',
    path: '/v1/quarantine/:digest',
    summary: 'Shows content that was in quarantine again.',
  },
  rebuildCatalog: {
    verb: 'POST',
    path: '/v1/catalog/rebuild',
    summary: 'Rebuilds the catalog from the files.',
  },
  ping: { verb: 'GET', path: '/v1/ping', safe: true, summary: 'Which daemon this is.' },
  jobs: { verb: 'GET', path: '/v1/jobs', safe: true, summary: 'Running and recent long work.' },
  stop: {
    verb: 'POST',
    path: '/v1/stop',
    summary: 'Stops the daemon: idle mounts go, busy ones stay served unless forced.',
  },
};

/** The names of the request fields that travel in a route's path. */
export function pathFields(path: string): string[] {
  return [...path.matchAll(/:([A-Za-z]+)/g)].map((m) => m[1]!);
}
