/**
 * A binary heap of variables, the most active first (VSIDS). Ties go to the smaller variable, so the order is
 * the same on every run. Only the solver's unguided search uses it.
 */

export interface ActivityHeap {
  bump(variable: number): void;
  /** Later bumps weigh more: called once per conflict. */
  decay(): void;
  insert(variable: number): void;
  /** The most active variable, or -1 when the heap is empty. */
  pop(): number;
}

const RESCALE = 1e100;

export function createActivityHeap(): ActivityHeap {
  const activity: number[] = [];
  const place: number[] = [];
  const heap: number[] = [];
  let increment = 1;

  function before(a: number, b: number): boolean {
    const difference = (activity[a] ?? 0) - (activity[b] ?? 0);
    return difference > 0 || (difference === 0 && a < b);
  }

  function put(variable: number, index: number): void {
    heap[index] = variable;
    place[variable] = index;
  }

  function up(from: number): void {
    let index = from;
    const variable = heap[index]!;
    while (index > 0) {
      const parent = (index - 1) >> 1;
      if (!before(variable, heap[parent]!)) break;
      put(heap[parent]!, index);
      index = parent;
    }
    put(variable, index);
  }

  function down(from: number): void {
    let index = from;
    const variable = heap[index]!;
    for (;;) {
      let child = 2 * index + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && before(heap[child + 1]!, heap[child]!)) child++;
      if (!before(heap[child]!, variable)) break;
      put(heap[child]!, index);
      index = child;
    }
    put(variable, index);
  }

  return {
    bump(variable) {
      activity[variable] = (activity[variable] ?? 0) + increment;
      if (activity[variable]! > RESCALE) {
        for (let v = 0; v < activity.length; v++) activity[v] = (activity[v] ?? 0) / RESCALE;
        increment /= RESCALE;
      }
      if ((place[variable] ?? -1) >= 0) up(place[variable]!);
    },
    decay() {
      increment /= 0.95;
    },
    insert(variable) {
      if ((place[variable] ?? -1) >= 0) return;
      while (activity.length <= variable) activity.push(0);
      heap.push(variable);
      up(heap.length - 1);
    },
    pop() {
      const top = heap[0];
      if (top === undefined) return -1;
      const last = heap.pop()!;
      place[top] = -1;
      if (heap.length > 0) {
        put(last, 0);
        down(0);
      }
      return top;
    },
  };
}
