/** Counts changes of the model. */
export interface ChangeClock {
  readonly version: number;
  readonly capacityVersion: number;
  /** One more change; `freed`: something became free or was added. */
  tick(freed: boolean): void;
  /** Changes that are undone again free nothing: when `change` yields nothing, `capacityVersion` is as it was before. */
  attempt<T>(change: () => T | undefined): T | undefined;
}

export function createChangeClock(): ChangeClock {
  let version = 0;
  let capacityVersion = 0;
  return {
    get version() {
      return version;
    },
    get capacityVersion() {
      return capacityVersion;
    },
    tick(freed) {
      version++;
      if (freed) capacityVersion++;
    },
    attempt(change) {
      const before = capacityVersion;
      const result = change();
      if (result === undefined) capacityVersion = before;
      return result;
    },
  };
}
