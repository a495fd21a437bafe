import type { KubernetesObject } from "../../src/api/kubernetes.ts";
import type { Store } from "../support/api-double/store.ts";
import type { Process } from "./process.ts";

/** A collection as one component sees it: in order, complete, and late. */
export interface Informer<T> {
  /** key (`namespace/name`) → object as last seen. */
  readonly items: ReadonlyMap<string, T>;
  /** Asks for the news soon; called at every commit of the resource. */
  wake(): void;
}

/** Lists at once, then follows. `changed` hears of every event, with what was known before. */
export function createInformer<T extends KubernetesObject>(
  store: Store,
  process: Process,
  resource: string,
  lagMs: () => number,
  changed: (object: T, previous: T | undefined, gone: boolean) => void = () => {},
): Informer<T> {
  const items = new Map(store.all(resource) as unknown as ReadonlyMap<string, T>);
  let told = store.version;
  let waking = false;
  return {
    items,
    wake() {
      if (waking || !process.alive) return;
      waking = true;
      process.after(lagMs(), () => {
        waking = false;
        const news = store.since(resource, told);
        told = store.version;
        for (const { key, object, type } of news) {
          const previous = items.get(key);
          if (type === "DELETED") items.delete(key);
          else items.set(key, object as unknown as T);
          changed(object as unknown as T, previous, type === "DELETED");
        }
      });
    },
  };
}
