/** Commands that change state, for the crash tests; they expect the state root that crash.test.ts makes. */
import { join } from 'node:path';
import { noProgress } from '../base/index.ts';
import type { Fleet } from './contract.ts';

export const COMMANDS: Record<string, (fleet: Fleet) => Promise<unknown>> = {
  'template-create': (fleet) => fleet.templateCreate({ name: 'new', layers: ['tool'], from: [] }, noProgress),
  create: (fleet) => fleet.create({ name: 'n', template: 't', count: 2 }, noProgress),
  'create-own': (fleet) =>
    fleet.create({ name: 'n', template: 't', count: 2, layers: ['other'] }, noProgress),
  update: (fleet) => fleet.update({}, noProgress),
  rollback: (fleet) => fleet.rollback({ template: 'two' }, noProgress),
  freeze: (fleet) => fleet.templateFreeze({ name: 't', from: 'a' }, noProgress),
  clone: (fleet) => fleet.clone({ source: 'a', name: 'b' }, noProgress),
  'clone-own': (fleet) => fleet.clone({ source: 'own', name: 'b' }, noProgress),
  snapshot: (fleet) => fleet.snapshot({ name: 'a', snapshot: 's' }),
  restore: (fleet) => fleet.restore({ name: 'child', snapshot: 'before' }),
  merge: (fleet) => fleet.merge({ name: 'child', into: 'parent' }, noProgress),
  promote: (fleet) => fleet.promote('child'),
  'import-dir': (fleet) =>
    fleet.importDir({ source: join(import.meta.dirname, 'quota'), name: 'i', template: 't' }, noProgress),
  delete: (fleet) => fleet.delete(['a', 'own']),
  'template-delete': (fleet) => fleet.templateDelete('two'),
};
