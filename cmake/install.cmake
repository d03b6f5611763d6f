# Man pages and completion, made by the tool from its own tables of options, and what `ninja install` puts where.

if(TARGET pith)
  set(completion ${CMAKE_BINARY_DIR}/completion/pith)
  add_custom_command(OUTPUT ${completion} VERBATIM DEPENDS pith
    COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_BINARY_DIR}/completion
    COMMAND sh -c "\"$1\" completion bash > \"$2\"" sh $<TARGET_FILE:pith> ${completion})
  add_custom_target(completion ALL DEPENDS ${completion})
  install(TARGETS pith RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  install(FILES models/byte-lm-3m-f16.gguf DESTINATION ${CMAKE_INSTALL_DATADIR}/pith) # what `pith lm` runs by default
  install(FILES ${completion} DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)

  find_program(SCDOC scdoc)
  if(SCDOC)
    file(GLOB man_sources CONFIGURE_DEPENDS man/*.scd)
    foreach(source ${man_sources})
      get_filename_component(page ${source} NAME_WLE) # pith-compress.1
      set(page ${CMAKE_BINARY_DIR}/man/${page})
      add_custom_command(OUTPUT ${page} VERBATIM DEPENDS pith ${source} ${PROJECT_SOURCE_DIR}/man/make_page
        COMMAND sh ${PROJECT_SOURCE_DIR}/man/make_page $<TARGET_FILE:pith> ${SCDOC} ${source} ${page})
      list(APPEND man_pages ${page})
    endforeach()
    add_custom_target(man ALL DEPENDS ${man_pages})
    install(FILES ${man_pages} DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
  else()
    message(STATUS "scdoc not found: no man pages")
  endif()
endif()

include(CMakePackageConfigHelpers)
set_target_properties(pith_shared PROPERTIES EXPORT_NAME pith)
set_target_properties(pith_static PROPERTIES EXPORT_NAME static)
set(config_folder ${CMAKE_INSTALL_LIBDIR}/cmake/pith)
install(TARGETS pith_shared pith_static EXPORT pith
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT pith NAMESPACE pith:: FILE pithTargets.cmake DESTINATION ${config_folder})
install(DIRECTORY include/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
configure_package_config_file(cmake/pithConfig.cmake.in ${CMAKE_BINARY_DIR}/pithConfig.cmake
  INSTALL_DESTINATION ${config_folder})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/pithConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/pithConfig.cmake ${CMAKE_BINARY_DIR}/pithConfigVersion.cmake
  DESTINATION ${config_folder})
file(RELATIVE_PATH pith_pc_to_prefix /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
configure_file(cmake/pith.pc.in ${CMAKE_BINARY_DIR}/pith.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/pith.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
