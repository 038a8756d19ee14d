/** A Fleet in memory for tests of daemon, client and command line: remembers names, and fails where a name says so. */
import { StrataError } from '../../base/index.ts';
import type { ApplianceInfo, FamilyMember, Fleet, TemplateInfo } from '../../fleet/contract.ts';

const EPOCH = '2026-01-02T03:04:05.000Z';

function member(name: string, depth: number, more: Partial<FamilyMember>): FamilyMember {
  return {
    name,
    template: 'web',
    depth,
    parent: null,
    deleted_parent: null,
    created_at: EPOCH,
    expires: null,
    mounts: [],
    snapshots: [],
    ...more,
  };
}

export interface FakeFleet extends Fleet {
  /** Every call with its arguments, without progress functions. */
  calls: { method: string; args: unknown[] }[];
  closed: boolean;
  /** Lets those go on that wait because they were asked for the layer `slow`. */
  goOn(): void;
}

export function createFakeFleet(root: string): FakeFleet {
  const appliances = new Map<string, ApplianceInfo>();
  const templates = new Map<string, TemplateInfo>();
  const repos = new Map<string, Awaited<ReturnType<Fleet['repoAdd']>>>();
  const need = <T>(map: Map<string, T>, what: string, name: string): T => {
    const found = map.get(name);
    if (!found) {
      throw new StrataError('NOT_FOUND', `there is no ${what} ${name}`, {
        hint: `\`strata list\` shows them`,
      });
    }
    return found;
  };
  const calls: FakeFleet['calls'] = [];
  const waiting: (() => void)[] = [];
  const updated = { templates: [], appliances: { updated: 0, held_back: [] }, elapsed_ms: 1 };
  const line = (word: string) => ({ repo: 'main', layer: word, version: '1', held: false });
  const change = async (o: { name: string; layers: string[] }) => {
    const template = need(templates, 'template', o.name);
    template.generation += 1;
    return template;
  };

  const fleet: Omit<FakeFleet, 'calls' | 'closed' | 'goOn'> = {
    repoAdd: async (o, progress) => {
      if (repos.has(o.name)) throw new StrataError('EXISTS', `repository ${o.name} exists already`);
      progress({ phase: 'index', done: 1, total: 2 });
      progress({ phase: 'index', done: 2, total: 2 });
      const config = { kind: 'dir' as const, allow: [], deny: [], ...o, units: 2, made_source: false };
      repos.set(o.name, config);
      return config;
    },
    repoList: async () => [...repos.values()].map((repo) => ({ ...repo, local: 1 })),
    repoSync: async (name) => ({ name, units: need(repos, 'repository', name).units, added: 0, removed: 0 }),
    repoRemove: async (name) => {
      need(repos, 'repository', name);
      repos.delete(name);
    },
    repoIndex: async (name) => ({ name, units: need(repos, 'repository', name).units }),
    layerImport: async (o) => ({
      units: o.files.map((file) => ({ repo: o.repo, layer: file.split('/').at(-1)!, version: '1' })),
    }),
    layerBuild: async (o) => ({ repo: o.repo, layer: o.name, version: o.version }),
    layerList: async (o) => ({
      layers: [
        { repo: o.repo ?? 'main', layer: 'hello', version: '1:2~b', local: true, description: 'greets' },
      ],
    }),
    layerShow: async (o) => ({
      repo: o.repo,
      local: true,
      versions: [o.version ?? '1:2~b'],
      metadata: { layer: o.layer, version: o.version ?? '1:2~b', category: 'software' },
      files: 3,
      bytes: 4096,
    }),
    layerVerify: async (o) => ({
      checked: 1,
      problems: o.layer === 'broken' ? [{ unit: 'main/broken 1', path: '/x', problem: 'missing' }] : [],
    }),
    layerRemove: async () => {},
    templateCreate: async (o, progress) => {
      if (o.layers.includes('slow')) await new Promise<void>((resolve) => waiting.push(resolve));
      if (o.layers.includes('main/boa')) {
        throw new StrataError(
          'CONFLICT',
          'cannot add main/boa: it conflicts with main/apache2 (both provide httpd)',
          { hint: 'remove one of them', data: { layers: ['main/boa', 'main/apache2'] } },
        );
      }
      if (o.layers.includes('crash')) throw new TypeError('a programming error');
      for (const phase of ['resolve', 'fetch', 'compose']) progress({ phase, message: `${phase} ${o.name}` });
      const template: TemplateInfo = {
        name: o.name,
        generation: 1,
        explicit: o.layers.map(line),
        implicit: [],
        refs: o.from,
        units: o.layers.length,
        ldf: `${o.layers.map((word) => `main/${word} 1`).join('\n')}\n\n`,
        appliances: 0,
      };
      templates.set(o.name, template);
      return {
        ...template,
        elapsed_ms: 5,
        timings: { resolve_ms: 1, mirror_ms: 1, compose_ms: 1, configure_ms: 2 },
      };
    },
    templateAdd: change,
    templateRemove: change,
    templateHold: async (o) => {
      const template = need(templates, 'template', o.name);
      for (const l of template.explicit) if (l.layer === o.layer) l.held = o.held;
      return template;
    },
    templateShow: async (name) => need(templates, 'template', name),
    templateList: async () => ({
      templates: [...templates.values()].map((t) => ({
        name: t.name,
        generation: t.generation,
        layers: t.explicit.length,
        appliances: 0,
      })),
    }),
    templateDelete: async (name) => {
      need(templates, 'template', name);
      templates.delete(name);
    },
    templateFreeze: async (o) => need(templates, 'template', o.name),
    update: async (o) => {
      if (o.templates?.includes('stuck')) {
        return {
          ...updated,
          templates: [{ name: 'stuck', from: 1, to: 1, changes: [], held_back: 'main/a needs main/b' }],
        };
      }
      return {
        ...updated,
        templates: [{ name: 'web', from: 1, to: 2, changes: [{ layer: 'main/hello', from: '1', to: '2' }] }],
      };
    },
    rollback: async () => updated,
    create: async (o) => {
      need(templates, 'template', o.template);
      const names = o.count ? Array.from({ length: o.count }, (_, i) => `${o.name}-${i + 1}`) : [o.name];
      const made = names.map((name, i) => ({
        name,
        mac: o.mac ?? `02:00:00:00:00:${(i + 1).toString(16).padStart(2, '0')}`,
        template: o.template,
      }));
      for (const one of made)
        appliances.set(one.name, { ...one, mounts: [], generation: 1, held_back: null });
      return { appliances: made, elapsed_ms: 2 };
    },
    importDir: async ({ name }) => ({
      name,
      mac: '02:00:00:00:00:01',
      template: 'imported',
      source: 'directory',
      entries: 1,
      bytes: 0,
      left_out: [],
      elapsed_ms: 1,
    }),
    quotaSet: async ({ name, quotaBytes, quotaInodes }) => ({
      name,
      quota_bytes: typeof quotaBytes === 'number' ? quotaBytes : null,
      quota_inodes: typeof quotaInodes === 'number' ? quotaInodes : null,
      used_bytes: 0,
      used_inodes: 0,
    }),
    quotaShow: async (name) => ({
      name,
      quota_bytes: null,
      quota_inodes: null,
      used_bytes: 0,
      used_inodes: 0,
    }),
    list: async () => ({ appliances: [...appliances.values()] }),
    show: async (name) => ({ ...need(appliances, 'appliance', name), private_bytes: 4096, layers: 2 }),
    clone: async ({ source, name }) => {
      const row = need(appliances, 'appliance', source);
      appliances.set(name, { ...row, name });
      const { mac, template } = row;
      return { name, mac, template, source, layers: 1, elapsed_ms: 1 };
    },
    delete: async (names) => {
      for (const name of names) need(appliances, 'appliance', name);
      for (const name of names) appliances.delete(name);
      return { deleted: names };
    },
    snapshot: async ({ name, snapshot = 'now' }) => ({ name, snapshot, created_at: EPOCH, layers: 1 }),
    snapshots: async (name) => {
      need(appliances, 'appliance', name);
      return { snapshots: [{ name: 'before', created_at: EPOCH, layers: 1 }] };
    },
    restore: async ({ name, snapshot }) => ({ name, snapshot, created_at: EPOCH }),
    merge: async ({ name, into, prefer }) => {
      const conflicts = [{ path: '/etc/motd', kind: 'changed' as const, taken: prefer ?? null }];
      if (prefer === undefined) {
        throw new StrataError('CONFLICT', `${name} and ${into} both changed /etc/motd`, {
          hint: '--theirs takes the version of the child, --ours that of the parent',
          data: { conflicts },
        });
      }
      const changes = [{ path: '/etc/motd', change: 'changed' as const }];
      return { name, into, merged: true, changes, conflicts, elapsed_ms: 1 };
    },
    promote: async (name) => ({ name, former_parent: 'web', parent: null }),
    tree: async () => ({
      appliances: [
        member('web-1', 0, { snapshots: [{ name: 'before', created_at: EPOCH }] }),
        member('test-1', 1, { parent: 'web-1', mounts: ['/mnt/test'] }),
        member('test-2', 2, { parent: 'test-1' }),
        member('web-2', 0, { deleted_parent: 'web-0' }),
      ],
    }),
    ttl: async ({ name, ttlSeconds }) => ({ name, expires: ttlSeconds === null ? null : EPOCH }),
    expire: async () => ({ expired: ['old'], kept: [], next: null }),
    mount: async (o) => {
      need(appliances, 'appliance', o.name).mounts.push(o.dir);
      return { name: o.name, dir: o.dir };
    },
    umount: async (o) => {
      const owner = [...appliances.values()].find((a) => a.name === o.target || a.mounts.includes(o.target));
      if (!owner) throw new StrataError('NOT_FOUND', `nothing is mounted at ${o.target}`);
      if (owner.name.startsWith('busy') && !o.force) throw new StrataError('BUSY', `${owner.name} is in use`);
      return { unmounted: owner.mounts.splice(0) };
    },
    prepareRun: async (o) => {
      need(appliances, 'appliance', o.name);
      return { argv: o.command, runId: `run-${o.name}`, env: { PATH: '/usr/bin:/bin' } };
    },
    finishRun: async () => {},
    diff: async (o) => {
      need(appliances, 'appliance', o.name);
      return {
        entries: [
          { path: '/etc/motd', change: 'changed', layer: 'main/base-files 12', base_updated: true },
          { path: '/root/new file', change: 'added', layer: null, base_updated: false },
          { path: '/usr/bin/perl', change: 'deleted', layer: 'main/perl-base 5', base_updated: false },
        ],
      };
    },
    revert: async (o) => ({ reverted: o.paths }),
    reset: async (o) => ({ name: o.name, kept: o.keep }),
    why: async (o) => ({
      path: o.what,
      unit: 'main/perl-base 5',
      private: false,
      chain: ['web wants main/git', 'main/git depends on main/perl-base'],
    }),
    policyCreate: async (o) => ({
      name: o.name,
      offered: false,
      rules: 1,
      substitutes: 0,
      text: 'exclude x\n',
    }),
    policyList: async () => ({ policies: [] }),
    policyShow: async (name) => ({ name, offered: true, rules: 1, substitutes: 0, text: 'exclude x\n' }),
    policyDelete: async () => {},
    policyApply: async (o) => ({ name: o.name, rules: [{ pattern: 'x', from: '' }], layers: 0 }),
    policyRules: async (name) => ({ name, rules: [], layers: 0 }),
    policyMark: async (o) => ({ name: o.name, paths: o.paths }),
    policyLog: async () => ({ denials: [], suppressed: 0 }),
    status: async () => ({
      appliances: appliances.size,
      templates: templates.size,
      mounts: 0,
      data_plane: { pid: null, memory_bytes: 0 },
      root,
      notes: [],
    }),
    gc: async (o) => ({
      dry_run: o.dryRun ?? false,
      keep: o.keep ?? 5,
      removed: [{ kind: 'units', count: 2, bytes: 8192 }],
      count: 2,
      bytes: 8192,
      items: [{ kind: 'units', name: 'main/hello 1' }],
      notes: [],
      longest_hold_ms: 0.5,
      elapsed_ms: 3,
    }),
    fsck: async (o) => ({
      checked: { repositories: 1, units: 2, generations: 1, appliances: 1, mounts: 0 },
      problems: o.deep
        ? [
            {
              object: 'unit main/hello 1',
              problem: 'its index is missing',
              remedy: 'strata fsck --repair makes it from the tree',
              severity: 'error',
              repaired: o.repair ?? false,
            },
          ]
        : [],
      clean: !o.deep || (o.repair ?? false),
      elapsed_ms: 3,
    }),
    scan: async (o) => ({
      scanner: { kind: o.with ?? 'clamav', version: 'ClamAV 1' },
      appliances: appliances.size,
      layers: 2,
      files: 3,
      scanned: 3,
      cached: 0,
      bytes_read: 12_288,
      infected: [],
      infected_count: 0,
      failed: [],
      failed_count: 0,
      skipped: [],
      skipped_count: 0,
      marked: 0,
      still_shown: [],
      elapsed_ms: 3,
    }),
    scanOnOpen: async ({ names, on }) => ({ names, on }),
    scanState: async () => ({ quarantine: [], on_open: [] }),
    quarantineRelease: async (digest) => ({ released: digest }),
    rebuildCatalog: async () => {},
    close: async () => {
      fake.closed = true;
    },
  };
  const goOn = (): void => {
    for (const one of waiting.splice(0)) one();
  };
  const fake: FakeFleet = { calls, closed: false, goOn, ...fleet };
  for (const [method, implementation] of Object.entries(fleet)) {
    const call = implementation as (...args: unknown[]) => unknown;
    (fake as unknown as Record<string, unknown>)[method] = (...args: unknown[]) => {
      calls.push({ method, args: args.filter((a) => typeof a !== 'function') });
      return call(...args);
    };
  }
  return fake;
}
