/** Where everything stands below the state root (see docs/architecture.md, "On disk"). */
import { join, relative } from 'node:path';

export interface FleetPaths {
  root: string;
  templates: string;
  appliances: string;
  machines: string;
  /** Policies by name, and in .layers what substitutes and grafts show. */
  policies: string;
  /** Layers that clones share. */
  frozen: string;
  /** Root file systems that were brought in. */
  imports: string;
  mnt: string;
  runs: string;
}

export function fleetPaths(root: string): FleetPaths {
  return {
    root,
    templates: join(root, 'templates'),
    appliances: join(root, 'appliances'),
    machines: join(root, 'machines'),
    policies: join(root, 'policies'),
    frozen: join(root, 'frozen'),
    imports: join(root, 'imports'),
    mnt: join(root, 'mnt'),
    runs: join(root, 'run', 'runs'),
  };
}

/** A path as journal records hold it. */
export function inState(paths: FleetPaths, path: string): string {
  return relative(paths.root, path);
}

/**
 * Who owns generations: a template by its name, an appliance with layers of its own as `@NAME`. Object names hold no '@', so a
 * template and an appliance of the same name stay apart, also as `config/OWNER` in stacks.
 */
export type Owner = string;

export function applianceOwner(name: string): Owner {
  return `@${name}`;
}

export function ownerDir(paths: FleetPaths, owner: Owner): string {
  return owner.startsWith('@') ? join(paths.appliances, owner.slice(1)) : join(paths.templates, owner);
}

export function generationDir(paths: FleetPaths, owner: Owner, generation: number): string {
  return join(ownerDir(paths, owner), 'generations', String(generation));
}
