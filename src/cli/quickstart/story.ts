/** What all acts of the quickstart share. */
import type { Context } from '../context.ts';
import type { Containers } from './container.ts';
import type { Narrator } from './narrator.ts';

export const TEMPLATE = 'web';
export const APPLIANCES = ['web-1', 'web-2', 'web-3'] as const;

export interface Story {
  context: Context;
  narrator: Narrator;
  containers: Containers;
  /** Where nginx listens, on 127.0.0.1. */
  port: number;
}
