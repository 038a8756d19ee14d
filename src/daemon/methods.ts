/**
 * What each API method does: one line a method, from the request record to the Fleet. Nothing else stands between
 * the HTTP API and the domain.
 */
import type { Progress } from '../base/index.ts';
import type { Fleet } from '../fleet/contract.ts';
import type { DaemonInfo, Method, Request, Result, StopResult } from './contract.ts';
import type { Jobs } from './jobs.ts';

export interface MethodContext {
  fleet: Fleet;
  jobs: Jobs;
  info(): DaemonInfo;
  stop(options: Request<'stop'>): Promise<StopResult>;
}

type Call<M extends Method> = (
  context: MethodContext,
  request: Request<M>,
  progress: Progress,
) => Promise<Result<M>>;

const done = async (work: Promise<void>): Promise<Record<string, never>> => {
  await work;
  return {};
};

export const METHODS: { readonly [M in Method]: Call<M> } = {
  repoAdd: ({ fleet }, r, progress) => fleet.repoAdd(r, progress),
  repoList: ({ fleet }) => fleet.repoList(),
  repoSync: ({ fleet }, r, progress) => fleet.repoSync(r.name, progress),
  repoRemove: ({ fleet }, r) => done(fleet.repoRemove(r.name)),
  repoIndex: ({ fleet }, r, progress) => fleet.repoIndex(r.name, progress),
  layerImport: ({ fleet }, r, progress) => fleet.layerImport(r, progress),
  layerBuild: ({ fleet }, r, progress) => fleet.layerBuild(r, progress),
  layerList: ({ fleet }, r) => fleet.layerList(r),
  layerShow: ({ fleet }, r) => fleet.layerShow(r),
  layerVerify: ({ fleet }, r, progress) => fleet.layerVerify(r, progress),
  layerRemove: ({ fleet }, r) => done(fleet.layerRemove(r)),
  templateCreate: ({ fleet }, r, progress) => fleet.templateCreate(r, progress),
  templateAdd: ({ fleet }, r, progress) => fleet.templateAdd(r, progress),
  templateRemove: ({ fleet }, r, progress) => fleet.templateRemove(r, progress),
  templateHold: ({ fleet }, r) => fleet.templateHold(r),
  templateShow: ({ fleet }, r) => fleet.templateShow(r.name),
  templateList: ({ fleet }) => fleet.templateList(),
  templateDelete: ({ fleet }, r) => done(fleet.templateDelete(r.name)),
  templateFreeze: ({ fleet }, r, progress) => fleet.templateFreeze(r, progress),
  update: ({ fleet }, r, progress) => fleet.update(r, progress),
  rollback: ({ fleet }, r, progress) => fleet.rollback(r, progress),
  create: ({ fleet }, r, progress) => fleet.create(r, progress),
  clone: ({ fleet }, r, progress) => fleet.clone(r, progress),
  importDir: ({ fleet }, r, progress) => fleet.importDir(r, progress),
  quotaSet: ({ fleet }, r) => fleet.quotaSet(r),
  quotaShow: ({ fleet }, r) => fleet.quotaShow(r.name),
  list: ({ fleet }, r) => fleet.list(r),
  show: ({ fleet }, r) => fleet.show(r.name),
  delete: ({ fleet }, r) => fleet.delete(r.names),
  snapshot: ({ fleet }, r) => fleet.snapshot(r),
  snapshots: ({ fleet }, r) => fleet.snapshots(r.name),
  restore: ({ fleet }, r) => fleet.restore(r),
  merge: ({ fleet }, r, progress) => fleet.merge(r, progress),
  promote: ({ fleet }, r) => fleet.promote(r.name),
  tree: ({ fleet }, r) => fleet.tree(r),
  ttl: ({ fleet }, r) => fleet.ttl(r),
  expire: ({ fleet }, r) => fleet.expire(r),
  mount: ({ fleet }, r) => fleet.mount(r),
  umount: ({ fleet }, r) => fleet.umount(r),
  prepareRun: ({ fleet }, r) => fleet.prepareRun(r),
  finishRun: ({ fleet }, r) => done(fleet.finishRun(r.runId)),
  diff: ({ fleet }, r) => fleet.diff(r),
  revert: ({ fleet }, r) => fleet.revert(r),
  reset: ({ fleet }, r) => fleet.reset(r),
  why: ({ fleet }, r) => fleet.why(r),
  policyCreate: ({ fleet }, r) => fleet.policyCreate(r),
  policyList: ({ fleet }) => fleet.policyList(),
  policyShow: ({ fleet }, r) => fleet.policyShow(r.name),
  policyDelete: ({ fleet }, r) => done(fleet.policyDelete(r.name)),
  policyApply: ({ fleet }, r) => fleet.policyApply(r),
  policyRules: ({ fleet }, r) => fleet.policyRules(r.name),
  policyMark: ({ fleet }, r) => fleet.policyMark(r),
  policyLog: ({ fleet }, r) => fleet.policyLog(r.name),
  status: async ({ fleet, info }) => ({ ...(await fleet.status()), daemon: info() }),
  gc: ({ fleet }, r, progress) => fleet.gc(r, progress),
  fsck: ({ fleet }, r, progress) => fleet.fsck(r, progress),
  scan: ({ fleet }, r, progress) => fleet.scan(r, progress),
  scanOnOpen: ({ fleet }, r) => fleet.scanOnOpen(r),
  scanState: ({ fleet }) => fleet.scanState(),
  quarantineRelease: ({ fleet }, r) => fleet.quarantineRelease(r.digest),
  rebuildCatalog: ({ fleet }) => done(fleet.rebuildCatalog()),
  ping: async ({ info }) => info(),
  jobs: async ({ jobs }) => ({ jobs: jobs.list() }),
  stop: ({ stop }, r) => stop(r),
};

/** What a request is about, for logs and the list of jobs. */
export function targetOf(request: Record<string, unknown>): string {
  for (const field of ['name', 'template', 'repo', 'target', 'runId']) {
    const value = request[field];
    if (typeof value === 'string') return value;
  }
  for (const field of ['names', 'templates']) {
    const value = request[field];
    if (Array.isArray(value)) return value.slice(0, 3).join(' ') + (value.length > 3 ? ' ...' : '');
  }
  return '';
}
