// One thread block on the CPU: a fiber per CUDA thread, in one operating-system thread, so that a run is repeatable and the
// sanitizers see every access. A fiber runs until it waits for the others; then the scheduler takes the next one that can go
// on.
//
// Two switches look for missing synchronisation. `descending` runs the last warp first. `lazy` makes copies as late as the
// hardware may (cp.async when it is waited for, a TMA load when nothing else can run); otherwise they are made at once, as
// early as it may. A kernel that forgets to wait for a copy fails under lazy copies, and one that reuses memory too early
// under early ones. Products of wgmma are always computed when they are waited for, as late as possible: a copy that comes
// too early then overwrites what they read.
#pragma once

#include <ucontext.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace clipfast {
namespace emulation {

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

struct Options {
  bool descending = false, lazy = false;
};
extern Options options;

// Prints what the hardware would not have accepted, with the block and thread, and ends the program.
[[noreturn]] void fail(const std::string& what);
inline void require(bool holds, const char* what) {
  if (!holds) fail(what);
}

// Asynchronous operations of one kind that a thread has started: closed in groups, waited for group by group.
struct Groups {
  std::vector<std::function<void()>> open;
  std::vector<std::vector<std::function<void()>>> closed;
  void add(std::function<void()> work);
  void commit();
  void wait(size_t pending);
};

// An mbarrier. A phase ends when all arrivals and all announced bytes are in.
struct TransactionBarrier {
  int arrivals = 0, pending = 0;
  long bytes = 0, phase = 0;
  bool seen_by_copies = false;
  void arrive(long announced_bytes);
  void complete(long done_bytes);
  void end_phase_if_all_is_in();
};

struct Thread {
  unsigned index = 0;
  bool done = false, fenced = false;  // fenced: may start wgmma
  std::function<bool()> ready;        // empty: can run
  Groups copies, products;            // cp.async; wgmma
  ucontext_t context;
  char* stack = nullptr;
  void* fake_stack = nullptr;
};

// Where a fixed number of threads meet, again and again.
struct Meeting {
  std::string purpose;
  int arrived = 0, expected = 0;
  long round = 0;
};

class Block {
 public:
  Block(Index block, Index grid, int threads, int shared_bytes);
  ~Block();
  void run(const std::function<void()>& kernel);

  // Waits until `ready` holds. Other threads run meanwhile.
  void wait_until(const std::function<bool()>& ready);
  // Waits for `expected` threads in all; true for the last one to come, which acts before it calls finish.
  bool meet(Meeting& meeting, const std::string& purpose, int expected);
  void finish(Meeting& meeting);
  void sync(int barrier, int threads);

  // Every lane of the warp calls this with its own arguments; the last one to come does the work for all of them. The other
  // lanes' arguments are alive, since those lanes wait.
  template <class Arguments, class Work>
  void together(const char* purpose, int lanes, Arguments& mine, const Work& work) {
    const int first = static_cast<int>(thread().index) / lanes * lanes;
    Gathering& g = gatherings_[{first, lanes}];
    g.lane[thread().index - first] = &mine;
    if (!meet(g.meeting, purpose, lanes)) return;
    std::vector<Arguments*> all;
    for (int k = 0; k < lanes; ++k) all.push_back(static_cast<Arguments*>(g.lane[k]));
    work(all);
    finish(g.meeting);
  }

  Thread& thread() { return *current_; }
  Thread& leader() { return threads_[current_->index / 32 * 32]; }  // the warp's first lane
  // The address within shared memory, checked; and back.
  uint32_t shared_offset(const void* pointer, size_t bytes, size_t alignment, const char* what) const;
  char* shared_at(uint32_t address, size_t bytes) const;

  Index block, grid, size;
  char* shared = nullptr;
  int shared_bytes = 0;
  std::vector<std::function<void()>> engine;           // what the copy engine has yet to do (lazy)
  std::map<const void*, TransactionBarrier> barriers;  // by their address in shared memory

 private:
  struct Gathering {
    Meeting meeting;
    void* lane[128];
  };
  static void enter();
  Thread* next();
  void go_on(bool last_time);

  std::vector<Thread> threads_;
  std::map<std::pair<int, int>, Gathering> gatherings_;
  std::map<int, Meeting> barriers_;
  std::function<void()> kernel_;
  Thread* current_ = nullptr;
  size_t turn_ = 0;  // the running thread's place in the order
  ucontext_t home_;  // where `run` was called
  void* home_fake_stack_ = nullptr;
  const void* home_stack_ = nullptr;
  size_t home_stack_size_ = 0;
};

extern Block* current;  // the block that runs
extern long bank_conflicts;

}  // namespace emulation
}  // namespace clipfast
