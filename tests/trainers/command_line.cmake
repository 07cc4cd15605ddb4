# Tests of the program as a user meets it: exit status and words.

# headway_command_test(<name> STATUS <exit status> SAYS <text> ARGUMENTS <argument>...)
function(headway_command_test name)
  cmake_parse_arguments(PARSE_ARGV 1 test "" "STATUS;SAYS" "ARGUMENTS")
  add_test(NAME trainers.command.${name} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR}
    COMMAND ${CMAKE_SOURCE_DIR}/tests/support/expect_status.sh ${test_STATUS} 30 "${test_SAYS}"
    $<TARGET_FILE:headway> ${test_ARGUMENTS})
endfunction()

headway_command_test(help_shows_examples STATUS 0 SAYS "mpirun -np 2 headway train recipes/quickstart.toml"
  ARGUMENTS --help)
headway_command_test(version STATUS 0 SAYS "headway ${PROJECT_VERSION}" ARGUMENTS --version)
headway_command_test(no_verb STATUS 2 SAYS "headway: expected a verb, one of eval, export")
headway_command_test(a_mistyped_verb STATUS 2 SAYS "headway: tran is not a verb of headway: did you mean train?"
  ARGUMENTS tran recipes/quickstart.toml)
headway_command_test(a_foreign_verb STATUS 2 SAYS "finetune is not a verb of headway: expected one of eval, export"
  ARGUMENTS finetune)
foreach(verb eval export generate inspect parity plan report sweep tokenize train)
  headway_command_test(help_of_${verb}_shows_examples STATUS 0 SAYS "  headway ${verb} " ARGUMENTS ${verb} --help)
endforeach()
headway_command_test(help_lists_recipe_keys STATUS 0 SAYS "schedule.warmup_steps = " ARGUMENTS train --help-recipe)
headway_command_test(help_lists_attention STATUS 0 SAYS "model.attention.kind = \"softmax\"" ARGUMENTS train --help-attention)
headway_command_test(train_needs_a_recipe STATUS 2 SAYS "train needs the path of a recipe" ARGUMENTS train)
headway_command_test(plan_needs_a_recipe STATUS 2 SAYS "recipe is required; see headway plan --help" ARGUMENTS plan)
headway_command_test(a_missing_recipe STATUS 2 SAYS "headway: recipe absent.toml does not exist"
  ARGUMENTS train absent.toml)
headway_command_test(a_foreign_option STATUS 2 SAYS "headway: train has no option --epochs: see headway train --help"
  ARGUMENTS train recipes/quickstart.toml --epochs 3)
headway_command_test(a_lonely_word STATUS 2 SAYS "\"now\" is not understood: expected section.key=value"
  ARGUMENTS train recipes/quickstart.toml now)
headway_command_test(an_unknown_key STATUS 2 SAYS "unknown key optim.learning_rate = 1: `learning_rate` is optim.lr here"
  ARGUMENTS train recipes/quickstart.toml --optim.learning_rate=1)
headway_command_test(a_mistyped_option STATUS 2 SAYS "headway: train has no option --ressume: did you mean --resume?"
  ARGUMENTS train recipes/quickstart.toml --ressume)
headway_command_test(every_unknown_key_is_named_first STATUS 2 SAYS "unknown key data.sec_len = 3: did you mean data.seq_len?"
  ARGUMENTS train recipes/quickstart.toml model.atention.kind=moh data.sec_len=3)
headway_command_test(every_unknown_key_is_named_second STATUS 2 SAYS "unknown key model.atention.kind = moh: did you mean model.attention.kind?"
  ARGUMENTS train recipes/quickstart.toml model.atention.kind=moh data.sec_len=3)
headway_command_test(a_foreign_key STATUS 2 SAYS "`gradient_checkpointing` is train.recompute here"
  ARGUMENTS train recipes/quickstart.toml train.gradient_checkpointing=true)
headway_command_test(a_mistyped_key_without_its_section STATUS 2 SAYS "`learning_rate` is optim.lr here"
  ARGUMENTS train recipes/quickstart.toml learning_rat=1)
headway_command_test(epochs_are_explained STATUS 2 SAYS "`epochs` is set by train.max_tokens or train.max_steps"
  ARGUMENTS train recipes/quickstart.toml train.epochs=3)
headway_command_test(compile_is_explained STATUS 2 SAYS "`compile` is not needed: the kernels are part of the program"
  ARGUMENTS train recipes/quickstart.toml train.compile=true)
headway_command_test(a_device_recipe STATUS 2 SAYS "headway: recipe /dev/zero is not a file" ARGUMENTS train /dev/zero)
headway_command_test(a_recipe_of_a_folder STATUS 2 SAYS "headway: recipe recipes is not a file" ARGUMENTS train recipes)
foreach(number -1 1.5 one 99999999999999999999)
  headway_command_test(a_seed_of_${number} STATUS 2 SAYS "${number}: expected an integer from 0 to 9223372036854775807"
    ARGUMENTS generate runs/absent --seed=${number})
endforeach()
headway_command_test(a_length_that_is_not_whole STATUS 2 SAYS "1e3: expected an integer from 1 to 1000000"
  ARGUMENTS generate runs/absent --tokens=1e3)
headway_command_test(no_ranks STATUS 2 SAYS "0: expected an integer from 1 to 1000000"
  ARGUMENTS train recipes/quickstart.toml -n 0)
headway_command_test(a_temperature_of_nan STATUS 2 SAYS "nan: expected a number from 0 to 100"
  ARGUMENTS generate runs/absent --temperature=nan)
headway_command_test(an_impossible_batch STATUS 2 SAYS "command line: train.batch_tokens = 5000: expected a multiple of 1 ranks"
  ARGUMENTS plan recipes/quickstart.toml train.batch_tokens=5000)
headway_command_test(inspect_prints_where_values_came_from STATUS 0 SAYS "lr = 0.5  # command line"
  ARGUMENTS inspect recipes/quickstart.toml --optim.lr=0.5)
headway_command_test(inspect_prints_what_is_derived STATUS 0 SAYS "head_dim = 32  # derived"
  ARGUMENTS inspect recipes/quickstart.toml)
file(GLOB recipes CONFIGURE_DEPENDS RELATIVE ${CMAKE_SOURCE_DIR}
  ${CMAKE_SOURCE_DIR}/recipes/*.toml ${CMAKE_SOURCE_DIR}/recipes/124m/*.toml)
foreach(recipe IN LISTS recipes)
  string(MAKE_C_IDENTIFIER ${recipe} name)
  headway_command_test(${name}_is_understood STATUS 0 SAYS "batch_tokens = " ARGUMENTS inspect ${recipe})
endforeach()
headway_command_test(parity_in_bf16_needs_a_gpu STATUS 2 SAYS "--dtype bf16 needs a GPU"
  ARGUMENTS parity --dtype bf16 absent.h5)
headway_command_test(parity_of_a_missing_file STATUS 4 SAYS "absent.h5" ARGUMENTS parity absent.h5)
headway_command_test(missing_data STATUS 3 SAYS "/absent/*.txt" ARGUMENTS plan recipes/quickstart.toml data.text=/absent/*.txt)
if(MPI_C_FOUND)
  headway_mpi_test(trainers.command.mpi.ranks_that_fail_alike_end_with_the_status RANKS 2 STATUS 2 WITHIN 30
    SAYS "headway: rank 0: recipe absent.toml does not exist" COMMAND $<TARGET_FILE:headway> train absent.toml)
endif()
