// Runs one tile operation in the emulation. Standard input holds lines "int NAME VALUE" and "array NAME BYTES" (followed by the
// bytes), then "run OPERATION"; standard output gets the arrays whose name begins with "out", in the same form. Arrays are
// allocated to the byte, so that the address sanitizer sees an access beyond them.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <map>
#include <string>

#include "../cuda/tile.h"
#include "block.h"

using namespace clipfast;
using namespace clipfast::cuda;

namespace {

struct Array {
  char* data = nullptr;
  size_t bytes = 0;
};
std::map<std::string, int64> integers;
std::map<std::string, Array> arrays;

Array read_array(size_t bytes) {
  Array a{nullptr, bytes};
  if (posix_memalign(reinterpret_cast<void**>(&a.data), 16, bytes)) std::abort();
  std::cin.get();  // the end of the line
  std::cin.read(a.data, static_cast<std::streamsize>(bytes));
  return a;
}

template <class T>
T* array(const char* name) {
  const auto found = arrays.find(name);
  return found == arrays.end() ? nullptr : reinterpret_cast<T*>(found->second.data);
}
int integer(const char* name) { return static_cast<int>(integers[name]); }

Tile tile() {
  return {array<char>("rows"),
          array<char>("cols"),
          integers["row_stride"],
          integers["col_stride"],
          integer("m"),
          integer("n"),
          integer("width_bytes"),
          static_cast<DType>(integer("dtype")),
          array<double>("row_scale"),
          array<float>("col_inverse_norm"),
          array<int64>("excluded"),
          integer("excluded_per_row"),
          integers["first_col"]};
}

void run(const std::string& operation) {
  const Device device{integer("capability"), integer("processors"), nullptr};
  const double* scalar = array<double>("scalar");
  if (operation == "exp_sums")
    exp_sums(tile(),
             {scalar, array<float>("out_row_sum"), array<float>("out_col_sum"), array<float>("out_row_max"),
              array<float>("out_col_max")},
             device);
  else if (operation == "softmax_weights")
    softmax_weights(tile(),
                    {scalar, array<float>("u"), array<float>("v"), array<float>("row_inner"), array<float>("col_inner"),
                     array<char>("out"), integers["out_stride"]},
                    device);
  else if (operation == "sigmoid")
    sigmoid(tile(),
            {scalar, array<float>("upstream"), array<float>("row_inner"), array<float>("col_inner"),
             array<float>("out_row_loss"), array<float>("out_row_sigmoid_sum"), array<char>("out"), integers["out_stride"]},
            device);
  else
    emulation::fail("no operation " + operation);
}

void write_outputs() {
  for (const auto& [name, a] : arrays) {
    if (name.rfind("out", 0) != 0) continue;
    std::cout << "array " << name << " " << a.bytes << "\n";
    std::cout.write(a.data, static_cast<std::streamsize>(a.bytes));
  }
  std::cout << "int bank_conflicts " << emulation::bank_conflicts << "\n";
}

}  // namespace

int main() {
  std::string kind, name;
  int64 value = 0;
  while (std::cin >> kind >> name) {
    if (kind == "run") {
      emulation::options = {integers["descending"] != 0, integers["lazy"] != 0};
      run(name);
      continue;
    }
    std::cin >> value;
    if (kind == "int") integers[name] = value;
    if (kind == "array") arrays[name] = read_array(static_cast<size_t>(value));
  }
  write_outputs();
  for (auto& [_, a] : arrays) std::free(a.data);
}
